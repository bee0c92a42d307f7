//! Services and EndpointSlices.
use std::net::IpAddr;

use super::{Family, ObjectName, Protocol};

/// A Service that has cluster IPs (headless and `ExternalName` Services do not arrive here).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    pub name: ObjectName,
    /// At most one per family.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: TrafficPolicy,
}

/// A port of a Service. (`name`, `protocol`) is its identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Empty when the Service has one unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// Which backends traffic may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// Value of the label `kubernetes.io/service-name`: a Service of the same namespace.
    pub service: String,
    pub family: Family,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of an EndpointSlice, matched to a Service port by name and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    /// `None`: all ports, so that the Service's own number stays.
    pub port: Option<u16>,
}

/// An endpoint of an EndpointSlice: a backend in the making.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node_name: Option<String>,
}
