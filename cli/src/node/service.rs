//! Frontends and their backends.
use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use agent_core::entry::{self, Backend};
use anyhow::Result;
use dataplane_common::{
    maps::MapId,
    service::{FrontendValue, flag},
};

use super::{Node, Proto, decoded};

/// The map of frontends and the map of their backends, of each family.
const FAMILIES: [(MapId, MapId); 2] =
    [(MapId::FRONTENDS_V4, MapId::BACKENDS_V4), (MapId::FRONTENDS_V6, MapId::BACKENDS_V6)];

/// A frontend and the backends it chooses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) addr: SocketAddr,
    pub(crate) proto: Proto,
    pub(crate) service_id: u32,
    pub(crate) drops_when_empty: bool,
    /// In the order of their slots.
    pub(crate) backends: Vec<SocketAddr>,
    /// Backends that get no new flow and keep those that they have.
    pub(crate) kept: Vec<SocketAddr>,
}

/// Every frontend.
pub(crate) fn frontends(node: &Node) -> Result<Vec<Frontend>> {
    let mut frontends = Vec::new();
    for (keys, slots) in FAMILIES {
        for (key, value) in node.map(keys)?.dump()? {
            let key = decoded(keys, entry::Frontend::from_bytes(&key))?;
            let value = decoded(keys, entry::frontend_value(&value))?;
            frontends.push(frontend(node, slots, key, value)?);
        }
    }
    Ok(frontends)
}

/// The frontend that a client in the cluster reaches at this address.
pub(crate) fn find(node: &Node, addr: SocketAddr, proto: Proto) -> Result<Option<Frontend>> {
    let (keys, slots) = FAMILIES[usize::from(addr.is_ipv6())];
    let key = entry::Frontend::cluster(addr.ip(), addr.port(), proto.0);
    let Some(value) = node.map(keys)?.lookup(&key.to_bytes())? else { return Ok(None) };
    frontend(node, slots, key, decoded(keys, entry::frontend_value(&value))?).map(Some)
}

/// A frontend at this address, whatever its port.
pub(crate) fn at_address(node: &Node, addr: IpAddr) -> Result<Option<Frontend>> {
    Ok(frontends(node)?.into_iter().find(|frontend| frontend.addr.ip() == addr))
}

fn frontend(node: &Node, slots: MapId, key: entry::Frontend, value: FrontendValue) -> Result<Frontend> {
    let map = node.map(slots)?;
    let backends = |slots_of: Range<u32>| -> Result<Vec<SocketAddr>> {
        let found = slots_of.map(|slot| {
            let Some(bytes) = map.lookup(&slot.to_ne_bytes())? else { return Ok(None) };
            let Backend { addr, port } = decoded(slots, Backend::from_bytes(&bytes))?;
            Ok(Some((addr, port).into()))
        });
        found.filter_map(Result::transpose).collect()
    };
    let (start, end) = range(&value);
    Ok(Frontend {
        addr: (key.addr, key.port).into(),
        proto: Proto(key.proto),
        service_id: value.service_id,
        drops_when_empty: value.flags & flag::DROP_WHEN_EMPTY != 0,
        backends: backends(start..value.kept_start())?,
        kept: backends(value.kept_start()..end)?,
    })
}

/// How many slots of `backends` the frontends use.
pub(crate) fn used_slots(node: &Node, backends: MapId) -> Result<u64> {
    let families = FAMILIES.into_iter().filter(|(_, slots)| *slots == backends);
    let mut ranges = Vec::new();
    for (keys, _) in families {
        for (_, value) in node.map(keys)?.dump()? {
            ranges.push(range(&decoded(keys, entry::frontend_value(&value))?));
        }
    }
    Ok(covered(ranges))
}

/// First slot, and the one after the last.
fn range(value: &FrontendValue) -> (u32, u32) {
    (value.backends_start, value.backends_start.saturating_add(value.slots()))
}

/// How many numbers the ranges cover together.
fn covered(mut ranges: Vec<(u32, u32)>) -> u64 {
    ranges.sort_unstable();
    let (mut covered, mut reached) = (0, 0);
    for (start, end) in ranges {
        covered += u64::from(end.saturating_sub(start.max(reached)));
        reached = reached.max(end);
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_frontends_share_are_counted_once() {
        assert_eq!(covered(vec![(10, 15), (0, 3), (10, 15), (12, 20), (30, 30)]), 13);
    }
}
