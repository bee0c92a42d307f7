//! What the maps hold: read once at start, then kept in step by recording every write.
mod ranges;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    num::NonZeroU64,
    time::Duration,
};

use dataplane_common::{endpoint::EndpointValue, maps::MapId, policy::PolicyValue, service::FrontendValue};
use ipnetwork::IpNetwork;

pub use self::ranges::{REST, Ranges};
pub(crate) use self::slots::Slots;
use crate::{
    entry::{self, Backend, Frontend, PolicyEntry, Route},
    model::{Family, endpoint::Endpoint},
    plan::{Action, Step},
    table::Table,
};

/// A typed mirror of the maps that the agent writes.
#[derive(Clone, Debug)]
pub struct Observed {
    pub(crate) frontends: HashMap<Frontend, ObservedFrontend>,
    slots_v4: Slots,
    slots_v6: Slots,
    pub(crate) policies: BTreeMap<PolicyEntry, PolicyValue>,
    pub(crate) classes: HashMap<IpAddr, u32>,
    pub(crate) cidrs: BTreeMap<IpNetwork, u32>,
    pub(crate) endpoints: BTreeMap<IpAddr, EndpointValue>,
    pub(crate) routes: BTreeMap<IpNetwork, Route>,
    pub(crate) netns: BTreeMap<NonZeroU64, u32>,
    pub(crate) epoch: u32,
    lengths: HashMap<MapId, usize>,
    /// Entries that make no sense; pruned with the rest.
    pub(crate) unreadable: BTreeSet<(MapId, Vec<u8>)>,
}

/// A frontend in the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObservedFrontend {
    pub(crate) value: FrontendValue,
    /// Whether its range of slots is its own. Not when another frontend claims a part of it: then its backends are
    /// written again elsewhere.
    pub(crate) owns_range: bool,
}

impl Default for Observed {
    /// Empty maps.
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            slots_v4: Slots::new(MapId::BACKENDS_V4.spec().max_entries),
            slots_v6: Slots::new(MapId::BACKENDS_V6.spec().max_entries),
            policies: BTreeMap::new(),
            classes: HashMap::new(),
            cidrs: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: BTreeMap::new(),
            netns: BTreeMap::new(),
            epoch: 0,
            lengths: HashMap::new(),
            unreadable: BTreeSet::new(),
        }
    }
}

impl Observed {
    /// Reads the maps of every [`Table`], and the epoch. A dump of `BACKENDS_*` may leave out slots that are all zero.
    pub fn from_dump(mut dump: impl FnMut(MapId) -> Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let mut observed = Self::default();
        for map in Table::every_map().chain([MapId::POLICY_EPOCH]) {
            for (key, value) in dump(map) {
                if observed.upsert(map, &key, &value).is_none() {
                    observed.unreadable.insert((map, key));
                }
            }
        }
        observed
    }

    /// Follows a step that was carried out.
    pub fn record(&mut self, step: &Step) {
        match &step.action {
            Action::Upsert(entries) => {
                for (key, value) in entries {
                    self.upsert(step.map, key, value);
                }
            }
            Action::Delete(keys) => {
                for key in keys {
                    self.unreadable.remove(&(step.map, key.clone()));
                    self.delete(step.map, key);
                }
            }
        }
    }

    /// Tells the time, since any moment: slots that no frontend uses rest for [`REST`] before they are used again.
    pub fn advance(&mut self, now: Duration) {
        self.slots_v4.ranges.advance(now);
        self.slots_v6.ranges.advance(now);
    }

    /// The policy epoch.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Has every flow judged once more, when what this says is written. An odd epoch stays odd: a plan is not finished.
    pub const fn raise_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(2);
    }

    /// Whether the maps hold an endpoint, with the interface it has now.
    #[must_use]
    pub fn has_endpoint(&self, endpoint: &Endpoint) -> bool {
        let current = |value: &EndpointValue| {
            value.ifindex == endpoint.host_ifindex
                && value.pod_mac == endpoint.pod_mac
                && value.host_mac == endpoint.host_mac
        };
        !endpoint.ips.is_empty()
            && endpoint.ips.iter().all(|addr| self.endpoints.get(addr).is_some_and(current))
    }

    /// How many entries a map holds; for `BACKENDS_*`, how many slots are in use.
    #[must_use]
    pub fn len(&self, map: MapId) -> usize {
        if map == MapId::BACKENDS_V4 {
            self.slots_v4.used()
        } else if map == MapId::BACKENDS_V6 {
            self.slots_v6.used()
        } else {
            self.lengths.get(&map).copied().unwrap_or_default()
        }
    }

    /// The sets that endpoints in the maps use.
    pub(crate) fn sets_in_use(&self) -> BTreeSet<u32> {
        self.endpoints.values().flat_map(|value| [value.ingress_set, value.egress_set]).collect()
    }

    pub(crate) const fn slots(&self, family: Family) -> &Slots {
        match family {
            Family::V4 => &self.slots_v4,
            Family::V6 => &self.slots_v6,
        }
    }

    const fn slots_mut(&mut self, family: Family) -> &mut Slots {
        match family {
            Family::V4 => &mut self.slots_v4,
            Family::V6 => &mut self.slots_v6,
        }
    }

    fn upsert(&mut self, map: MapId, key: &[u8], value: &[u8]) -> Option<()> {
        let Some(table) = Table::of(map) else {
            if map == MapId::POLICY_EPOCH {
                self.epoch = entry::number_from_bytes(value)?;
            }
            return Some(());
        };
        let is_new = match table {
            Table::Frontends => self.set_frontend(Frontend::from_bytes(key)?, entry::frontend_value(value)?),
            Table::Backends => {
                let backend = Backend::from_bytes(value)?;
                let slots = self.slots_mut(Family::of(backend.addr));
                slots.set(entry::number_from_bytes(key)?, backend);
                false
            }
            Table::Policies => {
                self.policies.insert(PolicyEntry::from_bytes(key)?, entry::policy_value(value)?).is_none()
            }
            Table::Classes => {
                self.classes.insert(entry::addr_from_bytes(key)?, entry::number_from_bytes(value)?).is_none()
            }
            Table::Cidrs => {
                self.cidrs.insert(entry::prefix_from_bytes(key)?, entry::number_from_bytes(value)?).is_none()
            }
            Table::Endpoints => {
                self.endpoints.insert(entry::addr_from_bytes(key)?, entry::endpoint_value(value)?).is_none()
            }
            Table::Routes => {
                self.routes.insert(entry::prefix_from_bytes(key)?, Route::from_bytes(value)?).is_none()
            }
            Table::Netns => {
                self.netns.insert(entry::netns_from_bytes(key)?, entry::number_from_bytes(value)?).is_none()
            }
        };
        if is_new {
            *self.lengths.entry(map).or_default() += 1;
        }
        Some(())
    }

    fn delete(&mut self, map: MapId, key: &[u8]) -> Option<()> {
        let was_there = match Table::of(map)? {
            Table::Frontends => {
                let frontend = Frontend::from_bytes(key)?;
                let old = self.frontends.remove(&frontend);
                old.inspect(|old| self.retire(frontend, *old)).is_some()
            }
            Table::Policies => self.policies.remove(&PolicyEntry::from_bytes(key)?).is_some(),
            Table::Classes => self.classes.remove(&entry::addr_from_bytes(key)?).is_some(),
            Table::Cidrs => self.cidrs.remove(&entry::prefix_from_bytes(key)?).is_some(),
            Table::Endpoints => self.endpoints.remove(&entry::addr_from_bytes(key)?).is_some(),
            Table::Routes => self.routes.remove(&entry::prefix_from_bytes(key)?).is_some(),
            Table::Netns => self.netns.remove(&entry::netns_from_bytes(key)?).is_some(),
            // Slots are not deleted, only left unused.
            Table::Backends => false,
        };
        if was_there && let Some(length) = self.lengths.get_mut(&map) {
            *length -= 1;
        }
        Some(())
    }

    /// Returns whether the frontend is new.
    fn set_frontend(&mut self, frontend: Frontend, value: FrontendValue) -> bool {
        let (start, count) = (value.backends_start, value.slots());
        let old = self.frontends.remove(&frontend);
        let keeps = old
            .filter(|old| (old.value.backends_start, old.value.slots()) == (start, count) && old.owns_range);
        if keeps.is_none()
            && let Some(old) = old
        {
            self.retire(frontend, old);
        }
        let ranges = &mut self.slots_mut(Family::of(frontend.addr)).ranges;
        let owns_range = keeps.is_some() || count == 0 || ranges.reserve(start, count);
        self.frontends.insert(frontend, ObservedFrontend { value, owns_range });
        old.is_none()
    }

    fn retire(&mut self, frontend: Frontend, old: ObservedFrontend) {
        let count = old.value.slots();
        if old.owns_range && count > 0 {
            self.slots_mut(Family::of(frontend.addr)).ranges.retire(old.value.backends_start, count);
        }
    }
}

/// The map of frontends that holds one.
pub(crate) fn frontend_map(frontend: Frontend) -> MapId {
    Table::Frontends.map(Family::of(frontend.addr))
}
