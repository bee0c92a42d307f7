//! What a test says of its pods, services and nodes.
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Deserialize;

/// A protocol, as Kubernetes spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// `podCIDRs`, as text.
    pub pod_cidrs: [String; 2],
}

/// A pod, as its owner describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Index of its node in the topology.
    pub node: usize,
    /// The name of its node.
    pub node_name: String,
    /// Named container ports.
    pub ports: Vec<(String, Protocol, u16)>,
    /// The UID that a real API server gave it; made up when there is none.
    pub uid: Option<String>,
    /// A static pod: the hash of its file, which its kubelet calls its UID. The object is its mirror.
    pub static_hash: Option<String>,
}

/// A pod, as its kubelet describes it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PodStatus {
    pub uid: String,
    pub ips: Vec<IpAddr>,
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// The phase is `Succeeded`.
    pub completed: bool,
}

/// A Service with cluster IPs of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    pub namespace: String,
    pub name: String,
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub local_only: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub target: u16,
}

impl PodSpec {
    /// A pod on the first node, without labels.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::new(),
            node: 0,
            node_name: String::new(),
            ports: Vec::new(),
            uid: None,
            static_hash: None,
        }
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Puts the pod on a node, by index.
    #[must_use]
    pub const fn on(mut self, node: usize) -> Self {
        self.node = node;
        self
    }

    /// Makes it a static pod whose file has this hash.
    #[must_use]
    pub fn of_file(mut self, hash: &str) -> Self {
        self.static_hash = Some(hash.to_owned());
        self
    }

    /// Declares a named container port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.ports.push((name.to_owned(), protocol, port));
        self
    }
}

impl ServiceSpec {
    /// A Service without ports that selects nothing.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            selector: BTreeMap::new(),
            ports: Vec::new(),
            local_only: false,
        }
    }

    /// Selects pods with this label, too.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A port that leads to another one (or the same) of the pods.
    #[must_use]
    pub fn port(self, protocol: Protocol, port: u16, target: u16) -> Self {
        let name = format!("{protocol}-{port}").to_lowercase();
        self.named_port(&name, protocol, port, target)
    }

    /// A port with a name of its own.
    #[must_use]
    pub fn named_port(mut self, name: &str, protocol: Protocol, port: u16, target: u16) -> Self {
        self.ports.push(ServicePort { name: name.to_owned(), protocol, port, target });
        self
    }

    /// Whether the Service selects a pod: of its own namespace only, and without a selector none.
    #[must_use]
    pub fn selects(&self, pod: &PodSpec) -> bool {
        self.namespace == pod.namespace
            && !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}
