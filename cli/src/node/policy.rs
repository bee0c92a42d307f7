//! Compiled policies, and the walk over them that the programs do.
use std::{fmt, net::IpAddr};

use agent_core::entry::{
    PolicyEntry, PortPrefix, addr_to_bytes, number_from_bytes, policy_value, prefix_to_bytes,
};
use anyhow::Result;
use dataplane_common::{
    maps::MapId,
    policy::{CLASS_ANY, PolicyKey, SET_DENY_ALL},
};
use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use super::{Node, Proto, decoded};

/// The ports of a compiled rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortRange {
    AnyProtocol,
    /// First and last port.
    Of(Proto, u16, u16),
}

impl PortRange {
    /// What a prefix of `POLICIES` covers.
    fn new(prefix: PortPrefix) -> Self {
        if prefix.prefix_len < PolicyKey::ANY_PORT_BITS {
            return Self::AnyProtocol;
        }
        let free = PolicyKey::FULL_BITS.saturating_sub(prefix.prefix_len).min(16);
        let mask = u16::try_from((1_u32 << free) - 1).unwrap_or(u16::MAX);
        let first = prefix.port & !mask;
        Self::Of(Proto(prefix.proto), first, first | mask)
    }

    /// Whether the range holds a port.
    pub(crate) fn holds(self, proto: Proto, port: u16) -> bool {
        match self {
            Self::AnyProtocol => true,
            Self::Of(of, first, last) => of == proto && (first..=last).contains(&port),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyProtocol => f.write_str("every port"),
            Self::Of(proto, 0, u16::MAX) => write!(f, "{proto}"),
            Self::Of(proto, first, last) if first == last => write!(f, "{proto} {first}"),
            Self::Of(proto, first, last) => write!(f, "{proto} {first}-{last}"),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An entry of `POLICIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) set: u32,
    pub(crate) class: u32,
    pub(crate) ports: PortRange,
    pub(crate) rule: u32,
}

/// Every compiled rule.
pub(crate) fn compiled(node: &Node) -> Result<Vec<Compiled>> {
    let entries = node.map(MapId::POLICIES)?.dump()?;
    let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let key = decoded(MapId::POLICIES, PolicyEntry::from_bytes(key))?;
        let value = decoded(MapId::POLICIES, policy_value(value))?;
        Ok(Compiled { set: key.set, class: key.class, ports: PortRange::new(key.ports), rule: value.rule })
    };
    entries.iter().map(decode).collect()
}

/// The classes of a peer address: as a pod, and by the address ranges that hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerClasses {
    pub(crate) pod: Option<u32>,
    pub(crate) cidr: Option<u32>,
}

pub(crate) fn classes(node: &Node, peer: IpAddr) -> Result<PeerClasses> {
    let (pods, cidrs) = match peer {
        IpAddr::V4(_) => (MapId::CLASSES_V4, MapId::CIDRS_V4),
        IpAddr::V6(_) => (MapId::CLASSES_V6, MapId::CIDRS_V6),
    };
    let class = |id, key: &[u8]| -> Result<Option<u32>> {
        node.map(id)?.lookup(key)?.map(|value| decoded(id, number_from_bytes(&value))).transpose()
    };
    Ok(PeerClasses {
        pod: class(pods, &addr_to_bytes(peer))?,
        cidr: class(cidrs, &prefix_to_bytes(IpNetwork::from(peer)))?,
    })
}

/// What a policy set says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    Allowed {
        rule: u32,
    },
    Denied,
    /// The real set could not be written.
    FailedClosed,
}

/// Asks the map what the programs ask it, in their order: rules for everybody, for the peer as a pod, for its
/// address.
pub(crate) fn judge(node: &Node, set: u32, peer: PeerClasses, proto: Proto, port: u16) -> Result<Judgement> {
    match set {
        0 => return Ok(Judgement::NotIsolated),
        SET_DENY_ALL => return Ok(Judgement::FailedClosed),
        _ => {}
    }
    for class in [Some(CLASS_ANY), peer.pod, peer.cidr].into_iter().flatten() {
        let ports = PortPrefix { prefix_len: PolicyKey::FULL_BITS, proto: proto.0, port };
        if let Some(value) =
            node.map(MapId::POLICIES)?.lookup(&PolicyEntry { set, class, ports }.to_bytes())?
        {
            return Ok(Judgement::Allowed { rule: decoded(MapId::POLICIES, policy_value(&value))?.rule });
        }
    }
    Ok(Judgement::Denied)
}

#[cfg(test)]
mod tests {
    use dataplane_common::net::proto;

    use super::*;

    fn ports(prefix_len: u32, proto: u8, port: u16) -> String {
        PortRange::new(PortPrefix { prefix_len, proto, port }).to_string()
    }

    #[test]
    fn the_ports_of_a_prefix_are_named() {
        assert_eq!(ports(PolicyKey::ANY_PROTO_BITS, 0, 0), "every port");
        assert_eq!(ports(PolicyKey::ANY_PORT_BITS, proto::UDP, 0), "udp");
        assert_eq!(ports(PolicyKey::FULL_BITS, proto::TCP, 5432), "tcp 5432");
        assert_eq!(ports(PolicyKey::prefix_len(8), proto::TCP, 0x1f00), "tcp 7936-8191");
        assert_eq!(ports(PolicyKey::prefix_len(15), proto::SCTP, 80), "sctp 80-81");
    }
}
