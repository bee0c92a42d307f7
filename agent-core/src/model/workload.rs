//! Pods and Namespaces: subjects and peers of policies.
use std::net::IpAddr;

use super::{ObjectName, Protocol, selector::Labels};

/// A pod, anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    pub name: ObjectName,
    /// Tells two pods of one name apart (a `StatefulSet` re-creates its pods under their names).
    pub uid: String,
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

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A namespace. The label `kubernetes.io/metadata.name` is always present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
}
