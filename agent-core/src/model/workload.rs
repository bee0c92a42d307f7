//! Pods and Namespaces: subjects and peers of policies.
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ObjectName, Protocol, endpoint::AttachmentId, selector::Labels};

/// A pod, anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    pub name: ObjectName,
    /// Tells two pods of one name apart (a `StatefulSet` re-creates its pods under their names).
    pub uid: String,
    /// Of a static pod's mirror: what its kubelet, which ran the pod before there was an object, calls its uid.
    pub static_uids: Vec<String>,
    pub labels: Labels,
    pub node_name: Option<String>,
    /// Its addresses are the node's: neither subject nor peer of policies.
    pub host_network: bool,
    /// `status.podIPs`; empty until known.
    pub ips: Vec<IpAddr>,
    /// `Succeeded` or `Failed`: its addresses may already belong to another pod.
    pub completed: bool,
    pub ports: Vec<ContainerPort>,
}

impl Pod {
    /// Whether an interface that was made for a pod of this name and `uid` is this pod's. Where one side does not say
    /// a uid, the name decides.
    #[must_use]
    pub fn has_uid(&self, uid: &str) -> bool {
        uid.is_empty()
            || self.uid.is_empty()
            || self.uid == uid
            || self.static_uids.iter().any(|own| own == uid)
    }
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A pod whose object is gone while its interface is still there, as after `kubectl delete --force`: policies go on
/// selecting it by its last labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedPod {
    pub attachment: AttachmentId,
    /// As the sources knew it last.
    pub pod: Pod,
    /// Whether a policy has isolated it in this direction since it departed: it stays closed when the policy goes, as
    /// it does with a namespace.
    pub isolated_ingress: bool,
    pub isolated_egress: bool,
}

/// A namespace. The label `kubernetes.io/metadata.name` is always present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
}
