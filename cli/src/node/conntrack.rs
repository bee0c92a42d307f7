//! Tracked flows.
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtState, half},
    maps::MapId,
    net::Be16,
};

use super::{MapAddr, Node, Proto};

/// The two ends of a flow as some packet carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    pub(crate) proto: Proto,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

impl Ends {
    fn contain(&self, ip: IpAddr) -> bool {
        self.source.ip() == ip || self.destination.ip() == ip
    }
}

/// An entry of a conntrack map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// In original direction.
    pub(crate) ends: Ends,
    /// What a packet in original direction is turned into; a backend half turns replies.
    pub(crate) nat: Ends,
    pub(crate) state: CtState,
    pub(crate) is_established: bool,
}

impl Entry {
    pub(crate) fn is_backend_half(&self) -> bool {
        self.state.half == half::BACKEND
    }

    pub(crate) fn is_translated(&self) -> bool {
        self.state.half != half::PLAIN
    }

    /// Whether the address stands at an end, before or after translation.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.ends.contain(ip) || (self.is_translated() && self.nat.contain(ip))
    }
}

/// Reads the two maps of one family.
macro_rules! family {
    ($node:ident, $key:ty, $entry:ty, [$new:expr, $established:expr]) => {{
        let mut entries = Vec::new();
        for (id, is_established) in [($new, false), ($established, true)] {
            for (key, value) in $node.entries::<$key, $entry>(id)? {
                let ends = [socket(key.low_addr, key.low_port), socket(key.high_addr, key.high_port)];
                let nat = [
                    socket(value.nat_source, value.nat_source_port),
                    socket(value.nat_destination, value.nat_destination_port),
                ];
                entries.push(entry(key.proto, ends, nat, value.state, is_established));
            }
        }
        entries
    }};
}

/// Every entry of both maps and both families.
pub(crate) fn entries(node: &Node) -> Result<Vec<Entry>> {
    let mut entries = family!(node, CtKeyV4, CtEntryV4, [MapId::CT_NEW_V4, MapId::CT_EST_V4]);
    entries.extend(family!(node, CtKeyV6, CtEntryV6, [MapId::CT_NEW_V6, MapId::CT_EST_V6]));
    Ok(entries)
}

fn socket(addr: impl MapAddr, port: Be16) -> SocketAddr {
    (addr.ip(), port.get()).into()
}

fn entry(
    proto: u8,
    [low, high]: [SocketAddr; 2],
    nat: [SocketAddr; 2],
    state: CtState,
    is_established: bool,
) -> Entry {
    let proto = Proto(proto);
    let (source, destination) = if state.origin_high == 0 { (low, high) } else { (high, low) };
    let [nat_source, nat_destination] = nat;
    Entry {
        ends: Ends { proto, source, destination },
        nat: Ends { proto, source: nat_source, destination: nat_destination },
        state,
        is_established,
    }
}
