//! The addresses of random clusters: two nodes, their pods, services and what is outside.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_core::model::{Family, node::Node};
use ipnetwork::IpNetwork;

/// Pods of the node under test; as many on the other node.
pub const LOCAL_PODS: u8 = 5;

/// Address of the `n`th pod: the first ones live on the node under test.
#[must_use]
pub fn pod_ip(n: u8, family: Family) -> IpAddr {
    let (node, host) = if n < LOCAL_PODS { (1, n + 2) } else { (2, n - LOCAL_PODS + 2) };
    match family {
        Family::V4 => Ipv4Addr::new(10, node, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, u16::from(node), 0, 0, 0, 0, 0, u16::from(host)).into(),
    }
}

/// Cluster IP of the `n`th service.
#[must_use]
pub fn service_ip(n: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, n + 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(n) + 1).into(),
    }
}

/// Address of a node.
#[must_use]
pub fn node_ip(n: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 16, 0, n).into(),
        Family::V6 => Ipv6Addr::new(0xfd16, 0, 0, 0, 0, 0, 0, u16::from(n)).into(),
    }
}

pub(super) fn outside_ip(n: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, n).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)).into(),
    }
}

pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// The object of a node.
pub(super) fn node(n: u8) -> Node {
    let cidr = |family| {
        let length = if family == Family::V4 { 24 } else { 64 };
        let first = pod_ip(if n == 1 { 0 } else { LOCAL_PODS }, family);
        let network = IpNetwork::new(first, length).expect("a length of the family").network();
        IpNetwork::new(network, length).expect("a length of the family")
    };
    Node {
        name: format!("n{n}"),
        addresses: BOTH.map(|family| node_ip(n, family)).to_vec(),
        pod_cidrs: BOTH.map(cidr).to_vec(),
        services: None,
        is_leaving: false,
    }
}

/// Where an address is.
#[must_use]
pub fn place(addr: IpAddr) -> Place {
    let by_addr: BTreeMap<IpAddr, u8> =
        (0..LOCAL_PODS).flat_map(|n| BOTH.map(|family| (pod_ip(n, family), n))).collect();
    if let Some(n) = by_addr.get(&addr) {
        return Place::LocalPod(*n);
    }
    let remote = node(2).pod_cidrs;
    if remote.iter().any(|cidr| cidr.contains(addr)) { Place::OtherNode } else { Place::Elsewhere }
}

/// Where a packet to an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    LocalPod(u8),
    /// Its pod CIDR is another node's.
    OtherNode,
    Elsewhere,
}
