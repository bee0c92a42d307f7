//! The pod interfaces of this node.
use std::net::IpAddr;

use agent_core::entry::{addr_from_bytes, addr_to_bytes, endpoint_value};
use anyhow::Result;
use dataplane_common::{endpoint::EndpointValue, maps::MapId, net::MacAddr};

use super::{Node, decoded};

/// One address of a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) ifindex: u32,
    pub(crate) ingress_set: u32,
    pub(crate) egress_set: u32,
    pub(crate) pod_mac: MacAddr,
}

impl Endpoint {
    fn new(ip: IpAddr, value: &EndpointValue) -> Self {
        Self {
            ip,
            ifindex: value.ifindex,
            ingress_set: value.ingress_set,
            egress_set: value.egress_set,
            pod_mac: value.pod_mac,
        }
    }
}

/// Every address of a pod of this node, by interface.
pub(crate) fn endpoints(node: &Node) -> Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for id in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
        for (key, value) in node.map(id)?.dump()? {
            let (ip, value) = (decoded(id, addr_from_bytes(&key))?, decoded(id, endpoint_value(&value))?);
            endpoints.push(Endpoint::new(ip, &value));
        }
    }
    endpoints.sort_by_key(|endpoint| (endpoint.ifindex, endpoint.ip));
    Ok(endpoints)
}

/// The pod of this node with this address.
pub(crate) fn find(node: &Node, ip: IpAddr) -> Result<Option<Endpoint>> {
    let id = if ip.is_ipv4() { MapId::ENDPOINTS_V4 } else { MapId::ENDPOINTS_V6 };
    let Some(value) = node.map(id)?.lookup(&addr_to_bytes(ip))? else { return Ok(None) };
    Ok(Some(Endpoint::new(ip, &decoded(id, endpoint_value(&value))?)))
}
