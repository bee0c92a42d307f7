//! The addresses of a cluster. Every cluster has the same ones: its network namespaces are its own.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The address families of nodes, pods and services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    #[default]
    V4,
    V6,
    /// Both, IPv4 first.
    Dual,
}

/// A family on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Families {
    /// In the order that Kubernetes lists them.
    #[must_use]
    pub const fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }

    /// One value for each family, joined as Kubernetes' options have it.
    #[must_use]
    pub fn list(self, value: impl Fn(Family) -> String) -> String {
        self.each().iter().map(|family| value(*family)).collect::<Vec<_>>().join(",")
    }

    #[must_use]
    pub const fn first(self) -> Family {
        match self {
            Self::V4 | Self::Dual => Family::V4,
            Self::V6 => Family::V6,
        }
    }
}

impl Family {
    #[must_use]
    pub fn service_cidr(self) -> String {
        match self {
            Self::V4 => "10.96.0.0/16".to_owned(),
            Self::V6 => "fd00:96::/112".to_owned(),
        }
    }

    /// All pods.
    #[must_use]
    pub fn pod_cidr(self) -> String {
        match self {
            Self::V4 => "10.244.0.0/16".to_owned(),
            Self::V6 => "fd00:244::/48".to_owned(),
        }
    }

    /// The pods of the node of this number.
    #[must_use]
    pub fn node_pod_cidr(self, number: u8) -> String {
        match self {
            Self::V4 => format!("10.244.{number}.0/24"),
            Self::V6 => format!("fd00:244:0:{number:x}::/64"),
        }
    }

    /// The Service `kubernetes`: the first of the range.
    #[must_use]
    pub fn api_service(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The Service of the cluster's DNS.
    #[must_use]
    pub fn dns_service(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 10).into(),
        }
    }

    /// The router between the nodes and the rest of the world.
    #[must_use]
    pub fn gateway(self) -> IpAddr {
        self.on_the_switch(1)
    }

    #[must_use]
    pub fn control_plane(self) -> IpAddr {
        self.on_the_switch(2)
    }

    /// The node of this number, which begins at 1.
    #[must_use]
    pub fn node(self, number: u8) -> IpAddr {
        self.on_the_switch(10 + number)
    }

    /// The client outside, and its router.
    #[must_use]
    pub fn client(self) -> IpAddr {
        self.outside(10)
    }

    #[must_use]
    pub(super) fn client_gateway(self) -> IpAddr {
        self.outside(1)
    }

    /// Of a network of nodes or clients.
    #[must_use]
    pub(super) const fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    fn on_the_switch(self, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 168, 77, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    fn outside(self, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, host).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// An address and a port, as a URL has it.
#[must_use]
pub fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
