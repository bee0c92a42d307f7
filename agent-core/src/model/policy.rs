//! NetworkPolicies.
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{ObjectName, Protocol, selector::LabelSelector};

/// A NetworkPolicy, with its defaults applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkPolicy {
    pub name: ObjectName,
    /// Pods of the policy's namespace that it selects.
    pub pod_selector: LabelSelector,
    /// `None`: the policy does not isolate for ingress. `Some([])`: isolates and allows nothing.
    pub ingress: Option<Vec<PolicyRule>>,
    /// `None`: the policy does not isolate for egress. `Some([])`: isolates and allows nothing.
    pub egress: Option<Vec<PolicyRule>>,
}

/// A rule allows what matches one of its peers and one of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyRule {
    pub peers: Peers,
    pub ports: Ports,
}

/// The peers of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Peers {
    /// The list is empty or absent: everything, pods or not.
    #[default]
    Any,
    /// One of these. May be empty when every item was invalid: then the rule matches nothing.
    OneOf(Vec<Peer>),
}

/// One item of a rule's peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    Pods { namespaces: NamespaceMatch, pods: LabelSelector },
    IpBlock(IpBlock),
}

/// The namespaces of a pod peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NamespaceMatch {
    /// No `namespaceSelector`: the policy's own namespace.
    Named(String),
    Selected(LabelSelector),
}

/// An `ipBlock`: an address range minus exceptions. Matches any address, pod or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpBlock {
    /// Canonical: no host bits.
    pub cidr: IpNetwork,
    /// Canonical, within `cidr`.
    pub except: Vec<IpNetwork>,
}

impl IpBlock {
    /// Whether the block holds an address. A block never holds an address of the other family.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.cidr.contains(addr) && !self.except.iter().any(|except| except.contains(addr))
    }
}

/// The ports of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The list is empty or absent: every port of every protocol.
    #[default]
    Any,
    /// One of these. May be empty when every item was invalid: then the rule matches nothing.
    OneOf(Vec<PolicyPort>),
}

/// One item of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyPort {
    pub protocol: Protocol,
    pub port: PortMatch,
}

/// The port number of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortMatch {
    /// No `port`: every port of the protocol.
    Any,
    /// `port` to `endPort`, inclusive.
    Range { first: u16, last: u16 },
    /// Resolved in the destination pod: the selected pod for ingress, each peer for egress.
    Named(String),
}
