//! The control plane of a test cluster: what an API server and its controllers would say, as Kubernetes YAML in the
//! manifest directory of every node.
mod manifests;
mod objects;
mod spec;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::manifests::Manifests;
pub use self::{
    manifests::object_name,
    spec::{NodeSpec, PodSpec, PodStatus, Protocol, ServicePort, ServiceSpec},
};

/// The barrier's Service; see [`ControlPlane::mark`].
const BARRIER: (&str, &str) = ("millrace-test", "barrier");
/// How many marks a slow node may be behind.
const MARKS: u16 = 64;

/// Addresses of the barrier's Service.
pub const BARRIER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);

/// Cluster objects, and the directories that show them.
#[derive(Debug)]
pub struct ControlPlane {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    manifests: Manifests,
    pods: BTreeMap<(String, String), (PodSpec, PodStatus)>,
    services: BTreeMap<(String, String), Placed>,
    next_cluster_ip: u16,
    next_uid: u64,
    last_mark: u16,
}

#[derive(Clone, Debug)]
struct Placed {
    spec: ServiceSpec,
    ips: ClusterIps,
}

/// The addresses of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIps {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl ClusterIps {
    /// Both, IPv4 first.
    #[must_use]
    pub const fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self { state: Mutex::new(State { next_cluster_ip: 10, ..State::default() }) }
    }
}

impl ControlPlane {
    /// Shows all objects, those to come included, in one more directory.
    pub fn add_directory(&self, directory: &Path) -> Result<()> {
        self.state().manifests.add_directory(directory)
    }

    /// Applies any object as it is.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.state().manifests.write(object)
    }

    /// Applies the objects of a YAML text.
    pub fn apply_yaml(&self, yaml: &str) -> Result<()> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).context("parse YAML")?;
        objects.iter().try_for_each(|object| self.apply(object))
    }

    /// Deletes an object. One that is gone already is no error.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.state().manifests.remove(kind, namespace, name)
    }

    /// Applies a namespace with its default label and these.
    pub fn apply_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.apply(&objects::namespace(name, labels))
    }

    /// Applies a node.
    pub fn apply_node(&self, node: &NodeSpec) -> Result<()> {
        self.apply(&objects::node(node))
    }

    /// Applies a Node with these labels.
    pub fn label_node(&self, node: &NodeSpec, labels: &[(&str, &str)]) -> Result<()> {
        let mut object = objects::node(node);
        for (key, value) in labels {
            object["metadata"]["labels"][key] = (*value).into();
        }
        self.apply(&object)
    }

    /// Applies a pod that has no addresses yet, as the scheduler leaves it. Returns its UID.
    pub fn schedule_pod(&self, spec: &PodSpec) -> Result<String> {
        let mut state = self.state();
        state.next_uid += 1;
        let next = state.next_uid;
        let uid = spec.uid.clone().unwrap_or_else(|| format!("00000000-0000-4000-8000-{next:012x}"));
        let status = PodStatus { uid: uid.clone(), ..PodStatus::default() };
        state.put_pod(spec.clone(), status)?;
        Ok(uid)
    }

    /// Changes what a pod's owner or its kubelet says of it; the slices of its Services follow.
    pub fn update_pod(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut PodSpec, &mut PodStatus),
    ) -> Result<()> {
        let mut state = self.state();
        let key = (namespace.to_owned(), name.to_owned());
        let (mut spec, mut status) =
            state.pods.get(&key).cloned().with_context(|| format!("no pod {namespace}/{name}"))?;
        change(&mut spec, &mut status);
        state.put_pod(spec, status)
    }

    /// Deletes a pod.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let mut state = self.state();
        state.pods.remove(&(namespace.to_owned(), name.to_owned()));
        state.manifests.remove("Pod", namespace, name)?;
        state.write_slices(namespace)
    }

    /// Applies a Service and the slices of its ready pods. It keeps its addresses when it is applied again.
    pub fn apply_service(&self, spec: &ServiceSpec) -> Result<ClusterIps> {
        let mut state = self.state();
        let key = (spec.namespace.clone(), spec.name.clone());
        let ips = match state.services.get(&key) {
            Some(placed) => placed.ips,
            None => state.cluster_ips(),
        };
        state.manifests.write(&objects::service(spec, ips))?;
        state.services.insert(key, Placed { spec: spec.clone(), ips });
        state.write_slices(&spec.namespace)?;
        Ok(ips)
    }

    /// Deletes a Service and its slices.
    pub fn delete_service(&self, namespace: &str, name: &str) -> Result<()> {
        let mut state = self.state();
        state.services.remove(&(namespace.to_owned(), name.to_owned()));
        state.manifests.remove("Service", namespace, name)?;
        for slice in objects::slice_names(name) {
            state.manifests.remove("EndpointSlice", namespace, &slice)?;
        }
        Ok(())
    }

    /// Leaves a mark behind everything applied so far: a Service port on [`BARRIER_IP`]. A node whose frontends
    /// have the mark has seen everything before it.
    pub fn mark(&self) -> Result<u16> {
        let mut state = self.state();
        state.last_mark += 1;
        let last = state.last_mark;
        let (namespace, name) = BARRIER;
        let mut spec = ServiceSpec::new(namespace, name);
        for mark in last.saturating_sub(MARKS - 1).max(1)..=last {
            spec = spec.named_port(&format!("m{mark}"), Protocol::Tcp, mark, mark);
        }
        let ips = ClusterIps { v4: BARRIER_IP, v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xff01) };
        state.manifests.write(&objects::service(&spec, ips))?;
        Ok(last)
    }

    /// Removes the marks, for an audience that shall not see them.
    pub fn remove_marks(&self) -> Result<()> {
        let (namespace, name) = BARRIER;
        self.delete("Service", namespace, name)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put_pod(&mut self, spec: PodSpec, status: PodStatus) -> Result<()> {
        self.manifests.write(&objects::pod(&spec, &status))?;
        let namespace = spec.namespace.clone();
        self.pods.insert((namespace.clone(), spec.name.clone()), (spec, status));
        self.write_slices(&namespace)
    }

    fn cluster_ips(&mut self) -> ClusterIps {
        let number = self.next_cluster_ip;
        self.next_cluster_ip += 1;
        let [high, low] = number.to_be_bytes();
        ClusterIps {
            v4: Ipv4Addr::new(10, 96, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number),
        }
    }

    /// What the `EndpointSlice` controller does. Files that stay the same are not written.
    fn write_slices(&mut self, namespace: &str) -> Result<()> {
        for ((_, _), placed) in self.services.iter().filter(|((of, _), _)| of == namespace) {
            let pods: Vec<_> = self
                .pods
                .values()
                .filter(|(pod, status)| placed.spec.selects(pod) && !status.ips.is_empty())
                .collect();
            for slice in objects::slices(&placed.spec, &pods) {
                self.manifests.write(&slice)?;
            }
        }
        Ok(())
    }
}
