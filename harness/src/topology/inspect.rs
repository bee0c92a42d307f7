//! What the maps of a node say.
use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use bpf_maps::{Entry, Map, MillraceDir};
use dataplane_common::{
    maps::MapId,
    net::{AddrV4, Be16, proto},
    service::{FrontendKeyV4, scope},
    verdict::{DropReason, Hook, Outcome, drop_slot, outcome_slot},
};
use zerocopy::IntoBytes as _;

/// The conntrack maps.
const CONNTRACK: [MapId; 4] = [MapId::CT_NEW_V4, MapId::CT_NEW_V6, MapId::CT_EST_V4, MapId::CT_EST_V6];

/// The pinned maps and links of a node.
#[derive(Clone, Debug)]
pub struct Maps {
    dir: MillraceDir,
}

impl Maps {
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { dir: MillraceDir::new(bpffs) }
    }

    fn open(&self, map: MapId) -> Result<Map> {
        Map::open_checked(&self.dir, map).with_context(|| format!("open {}", map.spec().name))
    }

    /// Whether a TCP frontend is programmed.
    pub fn has_frontend(&self, addr: Ipv4Addr, port: u16) -> Result<bool> {
        let addr = AddrV4::new(addr.octets());
        let key = FrontendKeyV4 { addr, port: Be16::new(port), proto: proto::TCP, scope: scope::CLUSTER };
        let found = self.open(MapId::FRONTENDS_V4)?.lookup(key.as_bytes()).context("look up a frontend")?;
        Ok(found.is_some())
    }

    /// Packets that a hook dropped for a reason.
    pub fn drops(&self, hook: Hook, reason: DropReason) -> Result<u64> {
        self.counter(drop_slot(hook, reason))
    }

    /// Packets that a hook did something else with.
    pub fn outcomes(&self, hook: Hook, outcome: Outcome) -> Result<u64> {
        self.counter(outcome_slot(hook, outcome))
    }

    fn counter(&self, slot: u32) -> Result<u64> {
        let counters = self.open(MapId::COUNTERS)?;
        let per_cpu = counters.lookup_per_cpu(slot.as_bytes()).context("read a counter")?.unwrap_or_default();
        per_cpu
            .iter()
            .map(|count| {
                Ok(u64::from_ne_bytes(count.as_slice().try_into().context("a counter has 8 bytes")?))
            })
            .sum()
    }

    /// How many conntrack entries there are.
    pub fn flows(&self) -> Result<usize> {
        CONNTRACK.iter().map(|map| Ok(self.entries(*map)?.len())).sum()
    }

    /// Every entry of a map, ordered.
    pub fn entries(&self, map: MapId) -> Result<Vec<Entry>> {
        let mut entries = self.open(map)?.dump().with_context(|| format!("read {}", map.spec().name))?;
        entries.sort_unstable();
        Ok(entries)
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Result<Vec<String>> {
        self.dir.link_names().context("list the links")
    }
}
