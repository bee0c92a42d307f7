//! Nodes.
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub name: String,
    /// `status.addresses` of type `InternalIP`, in order.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
}
