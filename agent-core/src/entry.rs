//! Map entries as the control plane thinks of them, and their bytes. The only place that knows both.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU64,
};

use dataplane_common::{
    endpoint::EndpointValue,
    net::{AddrV4, AddrV6, Be16},
    policy::{PolicyKey, PolicyValue},
    route::{RouteValue, family, kind},
    service::{BackendV4, BackendV6, FrontendKeyV4, FrontendKeyV6, FrontendValue, scope},
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

/// A key of `FRONTENDS_*`: what clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub proto: u8,
    pub scope: u8,
}

impl Frontend {
    /// The frontend of a cluster IP.
    #[must_use]
    pub const fn cluster(addr: IpAddr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, scope: scope::CLUSTER }
    }

    /// The bytes of the key.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let (port, proto, scope) = (Be16::new(self.port), self.proto, self.scope);
        match self.addr {
            IpAddr::V4(addr) => {
                FrontendKeyV4 { addr: AddrV4::new(addr.octets()), port, proto, scope }.as_bytes().to_vec()
            }
            IpAddr::V6(addr) => {
                FrontendKeyV6 { addr: AddrV6::new(addr.octets()), port, proto, scope }.as_bytes().to_vec()
            }
        }
    }

    /// Reads the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(key) = FrontendKeyV4::read_from_bytes(bytes) {
            let FrontendKeyV4 { addr, port, proto, scope } = key;
            return Some(Self { addr: Ipv4Addr::from(addr.octets()).into(), port: port.get(), proto, scope });
        }
        let FrontendKeyV6 { addr, port, proto, scope } = FrontendKeyV6::read_from_bytes(bytes).ok()?;
        Some(Self { addr: Ipv6Addr::from(addr.octets()).into(), port: port.get(), proto, scope })
    }
}

/// A value of `BACKENDS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub addr: IpAddr,
    pub port: u16,
}

impl Backend {
    /// The bytes of the value.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let port = Be16::new(self.port);
        match self.addr {
            IpAddr::V4(addr) => {
                BackendV4 { addr: AddrV4::new(addr.octets()), port, reserved: 0 }.as_bytes().to_vec()
            }
            IpAddr::V6(addr) => {
                BackendV6 { addr: AddrV6::new(addr.octets()), port, reserved: 0 }.as_bytes().to_vec()
            }
        }
    }

    /// Its place in the range of a frontend: the order in which the programs search, which is not that of the address
    /// as it is written. Means something between backends of one family.
    #[must_use]
    pub fn slot_order(&self) -> impl Ord + use<> {
        let (addr, port) = (self.addr, Be16::new(self.port));
        let (v4, v6) = match addr {
            IpAddr::V4(addr) => (AddrV4::new(addr.octets()), AddrV6::default()),
            IpAddr::V6(addr) => (AddrV4::default(), AddrV6::new(addr.octets())),
        };
        (v4, v6, port)
    }

    /// Reads the bytes of a value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(value) = BackendV4::read_from_bytes(bytes) {
            return Some(Self { addr: Ipv4Addr::from(value.addr.octets()).into(), port: value.port.get() });
        }
        let value = BackendV6::read_from_bytes(bytes).ok()?;
        Some(Self { addr: Ipv6Addr::from(value.addr.octets()).into(), port: value.port.get() })
    }
}

/// A key of `POLICIES`. The order groups the entries of a set, then of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyEntry {
    pub set: u32,
    pub class: u32,
    pub ports: PortPrefix,
}

/// The protocol and the ports of a key of `POLICIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    pub prefix_len: u32,
    pub proto: u8,
    pub port: u16,
}

impl PortPrefix {
    /// Every port of every protocol.
    pub const EVERYTHING: Self = Self { prefix_len: PolicyKey::ANY_PROTO_BITS, proto: 0, port: 0 };
    pub(crate) const FIRST: Self = Self { prefix_len: 0, proto: 0, port: 0 };
    pub(crate) const LAST: Self = Self { prefix_len: u32::MAX, proto: u8::MAX, port: u16::MAX };

    /// Ports that share their first `bits` bits.
    #[must_use]
    pub const fn ports(proto: u8, port: u16, bits: u32) -> Self {
        Self { prefix_len: PolicyKey::prefix_len(bits), proto, port }
    }

    /// Every port of a protocol.
    #[must_use]
    pub const fn protocol(proto: u8) -> Self {
        Self { prefix_len: PolicyKey::ANY_PORT_BITS, proto, port: 0 }
    }
}

impl PolicyEntry {
    /// The bytes of the key.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let PortPrefix { prefix_len, proto, port } = self.ports;
        let key = PolicyKey::new(self.set, self.class, proto, Be16::new(port));
        [prefix_len.as_bytes(), key.as_bytes()].concat()
    }

    /// Reads the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (prefix_len, key) = bytes.split_first_chunk()?;
        let key = PolicyKey::read_from_bytes(key).ok()?;
        Some(Self {
            set: u32::from_be_bytes(key.set),
            class: u32::from_be_bytes(key.class),
            ports: PortPrefix {
                prefix_len: u32::from_ne_bytes(*prefix_len),
                proto: key.proto,
                port: key.port.get(),
            },
        })
    }
}

/// What becomes of packets to what is no pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To their node, which is on the uplink's link.
    Direct(IpAddr),
    /// To a router on the uplink's link.
    Gateway(IpAddr),
    /// As the host's stack routes them.
    Stack,
    /// Refused: the address of a service, without one of its ports.
    Service,
}

impl Way {
    /// The next hop, where the programs send on their own.
    #[must_use]
    pub const fn next_hop(self) -> Option<IpAddr> {
        match self {
            Self::Direct(addr) | Self::Gateway(addr) => Some(addr),
            Self::Stack | Self::Service => None,
        }
    }
}

/// A value of `ROUTES_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub ifindex: u32,
    pub way: Way,
}

impl Route {
    /// The bytes of the value.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let kind = match self.way {
            Way::Direct(_) => kind::DIRECT,
            Way::Gateway(_) => kind::GATEWAY,
            Way::Stack => kind::STACK,
            Way::Service => kind::SERVICE,
        };
        let (family, addr) = match self.way.next_hop() {
            Some(addr @ IpAddr::V4(_)) => (family::INET, addr_to_bytes(addr)),
            Some(addr @ IpAddr::V6(_)) => (family::INET6, addr_to_bytes(addr)),
            None => (0, Vec::new()),
        };
        let mut next_hop = [0; 16];
        next_hop[..addr.len()].copy_from_slice(&addr);
        RouteValue { ifindex: self.ifindex, kind, family, next_hop }.as_bytes().to_vec()
    }

    /// Reads the bytes of a value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let RouteValue { ifindex, kind, family, next_hop } = RouteValue::read_from_bytes(bytes).ok()?;
        let next_hop = || match family {
            family::INET => addr_from_bytes(&next_hop[..4]),
            family::INET6 => addr_from_bytes(&next_hop),
            _ => None,
        };
        let way = match kind {
            kind::DIRECT => Way::Direct(next_hop()?),
            kind::GATEWAY => Way::Gateway(next_hop()?),
            kind::STACK => Way::Stack,
            kind::SERVICE => Way::Service,
            _ => return None,
        };
        Some(Self { ifindex, way })
    }
}

/// The bytes of an address.
#[must_use]
pub fn addr_to_bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Reads the bytes of an address.
#[must_use]
pub fn addr_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The bytes of a prefix, as the key of a trie.
#[must_use]
pub fn prefix_to_bytes(prefix: IpNetwork) -> Vec<u8> {
    let mut bytes = u32::from(prefix.prefix()).to_ne_bytes().to_vec();
    bytes.extend(addr_to_bytes(prefix.network()));
    bytes
}

/// Reads the bytes of a trie key.
#[must_use]
pub fn prefix_from_bytes(bytes: &[u8]) -> Option<IpNetwork> {
    let (prefix_len, addr) = bytes.split_first_chunk()?;
    let prefix_len = u8::try_from(u32::from_ne_bytes(*prefix_len)).ok()?;
    IpNetwork::new(addr_from_bytes(addr)?, prefix_len).ok()
}

/// The bytes of the cookie of a network namespace.
#[must_use]
pub fn netns_to_bytes(netns: NonZeroU64) -> Vec<u8> {
    netns.get().to_ne_bytes().to_vec()
}

/// Reads the cookie of a network namespace.
#[must_use]
pub fn netns_from_bytes(bytes: &[u8]) -> Option<NonZeroU64> {
    bytes.try_into().ok().map(u64::from_ne_bytes).and_then(NonZeroU64::new)
}

/// Reads a number.
#[must_use]
pub fn number_from_bytes(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads a value of `FRONTENDS_*`.
#[must_use]
pub fn frontend_value(bytes: &[u8]) -> Option<FrontendValue> {
    FrontendValue::read_from_bytes(bytes).ok()
}

/// Reads a value of `ENDPOINTS_*`.
#[must_use]
pub fn endpoint_value(bytes: &[u8]) -> Option<EndpointValue> {
    EndpointValue::read_from_bytes(bytes).ok()
}

/// Reads a value of `POLICIES`.
#[must_use]
pub fn policy_value(bytes: &[u8]) -> Option<PolicyValue> {
    PolicyValue::read_from_bytes(bytes).ok()
}
