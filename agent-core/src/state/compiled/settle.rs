//! Keeping the classes in line with the peers and the port names in use.
use std::{collections::BTreeSet, mem, sync::Arc};

use super::{
    Compiled,
    classes::Signature,
    peers::matching,
    ports::{PortName, resolve},
};
use crate::{
    ids::PeerId,
    model::{ObjectName, workload::Pod},
    state::{
        Changed,
        workloads::{Workloads, is_peer},
    },
};

/// What classes must still follow.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    pub(super) pods: BTreeSet<Arc<ObjectName>>,
    pub(super) new_peers: BTreeSet<PeerId>,
    pub(super) gone_peers: BTreeSet<PeerId>,
    pub(super) names: BTreeSet<PortName>,
    pub(super) blocks: bool,
}

impl Compiled {
    /// Brings the classes in line with the peers and names in use.
    pub(super) fn settle(&mut self, workloads: &Workloads, changed: &mut Changed) {
        let Unsettled { mut pods, new_peers, gone_peers, names, blocks } = mem::take(&mut self.unsettled);
        if !names.is_empty() {
            let has_one = |pod: &Pod| {
                pod.ports.iter().any(|port| {
                    names.iter().any(|(name, proto)| *name == port.name && *proto == port.protocol)
                })
            };
            pods.extend(workloads.pods().filter(|(_, pod)| has_one(pod)).map(|(name, _)| Arc::clone(name)));
        }
        if !gone_peers.is_empty() {
            for name in self.classes.pods_matching(&gone_peers) {
                let mut signature = self.classes.signature_of(&name);
                signature.peers.retain(|peer| !gone_peers.contains(peer));
                self.assign(&name, signature, workloads, changed);
            }
        }
        if !new_peers.is_empty() {
            self.match_new_peers(&new_peers, workloads, changed);
        }
        for name in pods {
            self.classify(&name, workloads, changed);
        }
        if blocks {
            self.blocks.rebuild(&mut self.class_ids, changed);
        }
    }

    fn match_new_peers(&mut self, new: &BTreeSet<PeerId>, workloads: &Workloads, changed: &mut Changed) {
        let mut found = Vec::new();
        for namespace in workloads.inhabited_namespaces() {
            let labels = workloads.namespace(namespace);
            let peers = self.peers.of_namespace(new.iter().copied(), namespace, labels);
            if peers.is_empty() {
                continue;
            }
            for (name, pod) in workloads.pods_in(namespace).filter(|(_, pod)| is_peer(pod)) {
                let matched: Vec<PeerId> = matching(&peers, pod).collect();
                if !matched.is_empty() {
                    found.push((name, matched));
                }
            }
        }
        for (name, matched) in found {
            let mut signature = self.classes.signature_of(name);
            signature.peers.extend(matched);
            signature.peers.sort_unstable();
            signature.peers.dedup();
            self.assign(name, signature, workloads, changed);
        }
    }

    /// Computes a pod's class from nothing.
    pub(super) fn classify(&mut self, name: &Arc<ObjectName>, workloads: &Workloads, changed: &mut Changed) {
        let pod = workloads.pod(name).filter(|pod| is_peer(pod));
        let signature = pod.map(|pod| {
            let namespace = workloads.namespace(&name.namespace);
            let peers = self.peers.of_namespace(self.peers.ids(), &name.namespace, namespace);
            let peers = matching(&peers, pod).collect();
            Signature { peers, ports: resolve(pod, |port| self.names.contains_key(port)) }
        });
        self.assign(name, signature.unwrap_or_default(), workloads, changed);
    }

    fn assign(
        &mut self,
        name: &Arc<ObjectName>,
        signature: Signature,
        workloads: &Workloads,
        changed: &mut Changed,
    ) {
        if self.classes.assign(name, signature, &mut self.class_ids, changed) {
            changed.addresses.extend(workloads.addresses_of(name));
        }
    }
}
