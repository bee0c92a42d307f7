//! Pods, namespaces and endpoints, and which pod an address belongs to.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::Changed;
use crate::{
    model::{
        ObjectName,
        endpoint::{AttachmentId, Endpoint},
        workload::{DepartedPod, Namespace, Pod},
    },
    update::Change,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Workloads {
    pods: BTreeMap<Arc<ObjectName>, Pod>,
    /// `status.podIPs` of every pod that may be a peer.
    addresses: BTreeSet<(IpAddr, Arc<ObjectName>)>,
    namespaces: BTreeMap<String, Namespace>,
    endpoints: BTreeMap<AttachmentId, Endpoint>,
    endpoint_addresses: BTreeSet<(IpAddr, AttachmentId)>,
    /// Of endpoints whose pod is gone.
    departed: BTreeMap<AttachmentId, DepartedPod>,
}

impl Workloads {
    /// Returns the pod's name when the update changed anything.
    pub(crate) fn apply_pod(
        &mut self,
        change: Change<Pod, ObjectName>,
        changed: &mut Changed,
    ) -> Option<Arc<ObjectName>> {
        let (name, new) = match change {
            Change::Apply(pod) => (pod.name.clone(), Some(pod)),
            Change::Delete(name) => (name, None),
        };
        let old = self.pods.get_key_value(&name);
        if old.map(|(_, pod)| pod) == new.as_ref() {
            return None;
        }
        let key = old.map_or_else(|| Arc::new(name), |(key, _)| Arc::clone(key));
        let before = old.map(|(_, pod)| peer_addresses(pod)).unwrap_or_default();
        let after = new.as_ref().map(peer_addresses).unwrap_or_default();
        if before != after {
            for addr in before {
                self.addresses.remove(&(addr, Arc::clone(&key)));
                changed.addresses.insert(addr);
            }
            for addr in after {
                self.addresses.insert((addr, Arc::clone(&key)));
                changed.addresses.insert(addr);
            }
        }
        // Whether an endpoint's addresses are this pod's.
        let uids = |pod: &Pod| (pod.uid.clone(), pod.static_uids.clone());
        let binding = |pod: &Pod| (uids(pod), is_peer(pod));
        if old.map(|(_, pod)| binding(pod)) != new.as_ref().map(binding) {
            let addresses = || self.endpoints_of(&key).flat_map(|endpoint| &endpoint.ips);
            changed.addresses.extend(addresses());
            changed.endpoints.extend(addresses());
        }
        let departing: Vec<AttachmentId> = match &new {
            Some(pod) if old.is_none_or(|(_, old)| uids(old) == uids(pod)) => Vec::new(),
            _ => self.endpoints_with_pod(&key).map(|endpoint| endpoint.attachment.clone()).collect(),
        };
        let old = match new {
            Some(pod) => self.pods.insert(Arc::clone(&key), pod),
            None => self.pods.remove(&key),
        };
        self.depart(departing, old.as_ref());
        self.return_to(&key);
        Some(key)
    }

    pub(crate) fn apply_namespace(&mut self, change: Change<Namespace, String>) -> Option<NamespaceChange> {
        let (name, new) = match change {
            Change::Apply(namespace) => (namespace.name.clone(), Some(namespace)),
            Change::Delete(name) => (name, None),
        };
        let old = match new.clone() {
            Some(namespace) => self.namespaces.insert(name.clone(), namespace),
            None => self.namespaces.remove(&name),
        };
        (old != new).then_some(NamespaceChange { name, old, new })
    }

    /// Returns the attachment when the update changed anything.
    pub(crate) fn apply_endpoint(
        &mut self,
        change: Change<Endpoint, AttachmentId>,
        changed: &mut Changed,
    ) -> Option<AttachmentId> {
        let (attachment, new) = match change {
            Change::Apply(endpoint) => (endpoint.attachment.clone(), Some(endpoint)),
            Change::Delete(attachment) => (attachment, None),
        };
        if self.endpoints.get(&attachment) == new.as_ref() {
            return None;
        }
        let is_of = |departed: &DepartedPod, endpoint: &Endpoint| departed.pod.name == endpoint.pod;
        if !new.as_ref().is_some_and(|new| self.departed.get(&attachment).is_some_and(|old| is_of(old, new)))
        {
            self.departed.remove(&attachment);
        }
        if let Some(old) = self.endpoints.remove(&attachment) {
            changed.netns.extend(old.netns);
            for addr in old.ips {
                self.endpoint_addresses.remove(&(addr, attachment.clone()));
                changed.endpoints.insert(addr);
                changed.addresses.insert(addr);
            }
        }
        if let Some(endpoint) = new {
            changed.netns.extend(endpoint.netns);
            for addr in &endpoint.ips {
                self.endpoint_addresses.insert((*addr, attachment.clone()));
                changed.endpoints.insert(*addr);
                changed.addresses.insert(*addr);
            }
            self.endpoints.insert(attachment.clone(), endpoint);
        }
        Some(attachment)
    }

    /// The endpoint that has an address: of several, the one whose attachment sorts last.
    pub(crate) fn endpoint_at(&self, addr: IpAddr) -> Option<&Endpoint> {
        let first = AttachmentId { container_id: String::new(), ifname: String::new() };
        let at = self.endpoint_addresses.range((addr, first)..).take_while(|(at, _)| *at == addr);
        at.last().and_then(|(_, attachment)| self.endpoints.get(attachment))
    }

    /// The pod behind an endpoint, when the state knows it: by name, and by uid when both sides say one. A pod that
    /// has departed tells the uid when the endpoint does not.
    pub(crate) fn pod_of(&self, endpoint: &Endpoint) -> Option<(&Arc<ObjectName>, &Pod)> {
        let (name, pod) = self.pods.get_key_value(&endpoint.pod)?;
        let departed = self.departed.get(&endpoint.attachment).map(|departed| &departed.pod.uid);
        let uid = departed.filter(|_| endpoint.pod_uid.is_empty()).unwrap_or(&endpoint.pod_uid);
        pod.has_uid(uid).then_some((name, pod))
    }

    /// The pod by whose labels policies select an endpoint: the one behind it, or the one that was.
    pub(crate) fn subject(&self, endpoint: &Endpoint) -> Option<&Pod> {
        let pod = self.pod_of(endpoint).map(|(_, pod)| pod);
        pod.or_else(|| self.departed.get(&endpoint.attachment).map(|departed| &departed.pod))
    }

    /// What is remembered of an endpoint's pod whose object is gone.
    pub(crate) fn departed(&self, attachment: &AttachmentId) -> Option<&DepartedPod> {
        self.departed.get(attachment)
    }

    pub(crate) fn all_departed(&self) -> impl ExactSizeIterator<Item = &DepartedPod> {
        self.departed.values()
    }

    /// Takes over what an earlier run remembered of an endpoint, unless the sources know its pod.
    pub(crate) fn restore_departed(&mut self, departed: DepartedPod) {
        let endpoint = self.endpoints.get(&departed.attachment);
        let is_due =
            |endpoint: &Endpoint| endpoint.pod == departed.pod.name && self.pod_of(endpoint).is_none();
        if endpoint.is_some_and(is_due) {
            self.departed.insert(departed.attachment.clone(), departed);
        }
    }

    /// Notes which departed pods are isolated, by what was just compiled.
    pub(crate) fn note_isolation(&mut self, isolated: impl Fn(&AttachmentId) -> (bool, bool)) {
        for departed in self.departed.values_mut() {
            let (ingress, egress) = isolated(&departed.attachment);
            departed.isolated_ingress |= ingress;
            departed.isolated_egress |= egress;
        }
    }

    fn depart(&mut self, attachments: Vec<AttachmentId>, pod: Option<&Pod>) {
        for attachment in attachments {
            let Some(pod) = pod.cloned() else { continue };
            let departed = DepartedPod {
                attachment: attachment.clone(),
                pod,
                isolated_ingress: false,
                isolated_egress: false,
            };
            self.departed.insert(attachment, departed);
        }
    }

    /// Forgets what was remembered of endpoints whose pod is there.
    fn return_to(&mut self, name: &ObjectName) {
        if self.departed.is_empty() {
            return;
        }
        let here: Vec<AttachmentId> =
            self.endpoints_with_pod(name).map(|endpoint| endpoint.attachment.clone()).collect();
        self.departed.retain(|attachment, _| !here.contains(attachment));
    }

    /// The endpoints that name a pod and are its own.
    fn endpoints_with_pod(&self, name: &ObjectName) -> impl Iterator<Item = &Endpoint> {
        self.endpoints_of(name).filter(|endpoint| self.pod_of(endpoint).is_some())
    }

    /// The pod that has an address as a peer. An endpoint of this node knows best; among other pods with the
    /// address the lowest name wins. An address whose endpoint waits for its pod belongs to nobody yet.
    pub(crate) fn peer_at(&self, addr: IpAddr) -> Option<&Arc<ObjectName>> {
        if let Some(endpoint) = self.endpoint_at(addr) {
            let (name, pod) = self.pod_of(endpoint)?;
            if is_peer(pod) {
                return Some(name);
            }
        }
        let lowest = Arc::new(ObjectName::new("", ""));
        let (_, name) = self.addresses.range((addr, lowest)..).next().filter(|(at, _)| *at == addr)?;
        Some(name)
    }

    /// Every address that may belong to a pod.
    pub(crate) fn peer_addresses(&self) -> BTreeSet<IpAddr> {
        let of_pods = self.addresses.iter().map(|(addr, _)| *addr);
        of_pods.chain(self.endpoint_addresses.iter().map(|(addr, _)| *addr)).collect()
    }

    /// The addresses in a range that pods have by their objects, and whose they are.
    pub(crate) fn pods_in_range(&self, range: IpNetwork) -> impl Iterator<Item = (IpAddr, ObjectName)> {
        let first = (range.network(), Arc::new(ObjectName::new("", "")));
        let here = self.addresses.range(first..).take_while(move |(addr, _)| range.contains(*addr));
        here.map(|(addr, pod)| (*addr, pod.as_ref().clone()))
    }

    /// The addresses of a pod, its endpoints' included.
    pub(crate) fn addresses_of(&self, name: &ObjectName) -> impl Iterator<Item = IpAddr> {
        let pod = self.pods.get(name).into_iter().flat_map(|pod| pod.ips.iter());
        pod.chain(self.endpoints_of(name).flat_map(|endpoint| &endpoint.ips)).copied()
    }

    /// The endpoints that name a pod. A node has a few hundred endpoints: a scan is cheaper than an index.
    pub(crate) fn endpoints_of(&self, name: &ObjectName) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().filter(move |endpoint| endpoint.pod == *name)
    }

    pub(crate) fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    pub(crate) fn pods(&self) -> impl ExactSizeIterator<Item = (&Arc<ObjectName>, &Pod)> {
        self.pods.iter()
    }

    /// The namespaces that have pods.
    pub(crate) fn inhabited_namespaces(&self) -> impl Iterator<Item = &str> {
        let mut next = Some(ObjectName::new("", ""));
        std::iter::from_fn(move || {
            let (name, _) = self.pods.range::<ObjectName, _>(next.take()?..).next()?;
            // The smallest name after all of this namespace.
            next = Some(ObjectName::new(format!("{}\0", name.namespace), ""));
            Some(name.namespace.as_str())
        })
    }

    /// The pods of a namespace.
    pub(crate) fn pods_in(&self, namespace: &str) -> impl Iterator<Item = (&Arc<ObjectName>, &Pod)> {
        self.pods
            .range::<ObjectName, _>(ObjectName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    pub(crate) fn namespaces(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.namespaces.values()
    }

    pub(crate) fn endpoint(&self, attachment: &AttachmentId) -> Option<&Endpoint> {
        self.endpoints.get(attachment)
    }

    pub(crate) fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.endpoints.values()
    }
}

/// A namespace before and after an update.
pub(crate) struct NamespaceChange {
    pub(crate) name: String,
    pub(crate) old: Option<Namespace>,
    pub(crate) new: Option<Namespace>,
}

/// Whether a pod is a peer of policies: not when its addresses are the node's, or no longer its own.
pub(crate) fn is_peer(pod: &Pod) -> bool {
    !pod.host_network && !pod.completed
}

fn peer_addresses(pod: &Pod) -> BTreeSet<IpAddr> {
    if is_peer(pod) { pod.ips.iter().copied().collect() } else { BTreeSet::new() }
}
