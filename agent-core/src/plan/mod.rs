//! From what is desired and what is there to the writes that make them equal, in an order in which every prefix of
//! them is safe.
//!
//! 1. Backends, then the frontends that point to them.
//! 2. Policy entries, then the classes that go, then those and the address ranges that come or change, then the
//!    endpoints that use them.
//! 3. Other deletes in reverse; slots of backends are reused later still.
//!
//! A flow that the old and the new state both allow is not denied in between, for the old state is rendered along
//! with the new one until it is tidied away (see `state::compiled`). There are two exceptions, and in both the
//! client's next attempt succeeds. A peer that nobody vouches for any more is a stranger from the first moment, even
//! where the new state lets strangers in. And when a policy changed while no agent ran, the sets of the earlier run
//! mean nothing to this one, so new flows may be denied between the flip of the classes and that of an endpoint.
//!
//! The policy epoch tells the programs to judge established flows once more. A change that may revoke writes an odd
//! epoch before it and the next even one after it, so that an agent that dies in between finds the odd number and
//! finishes the job.
mod endpoint;
mod policy;
mod service;

use std::collections::BTreeMap;

use dataplane_common::{
    maps::{MapId, Phase},
    socket::netns,
};

use crate::{
    entry::{netns_to_bytes, prefix_to_bytes},
    model::Family,
    observed::Observed,
    problem::{Problem, Scope},
    render::Desired,
    state::Changed,
    table::Table,
};

/// Writes in the order in which they must happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What does not fit into the maps.
    pub problems: Vec<Problem>,
    /// The scopes of those problems: to be rendered again when there may be room.
    pub unplaced: Changed,
}

/// One batch of writes to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub map: MapId,
    pub action: Action,
}

/// Key and value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Keys and values are the bytes of the map ABI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Upsert(Vec<Entry>),
    /// Deleting what is gone is success.
    Delete(Vec<Vec<u8>>),
}

impl Plan {
    /// Entries that are written.
    #[must_use]
    pub fn upserts(&self) -> usize {
        self.steps
            .iter()
            .map(|step| if let Action::Upsert(entries) = &step.action { entries.len() } else { 0 })
            .sum()
    }

    /// Entries that are deleted.
    #[must_use]
    pub fn deletes(&self) -> usize {
        self.steps
            .iter()
            .map(|step| if let Action::Delete(keys) = &step.action { keys.len() } else { 0 })
            .sum()
    }
}

/// Computes the writes that make the maps hold what is desired.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut draft = Draft::default();
    service::plan(desired, observed, &mut draft);
    let placed = policy::plan(desired, observed, &mut draft);
    endpoint::plan(desired, observed, &placed, &mut draft);
    plan_routes(desired, observed, &mut draft);
    plan_netns(desired, observed, &mut draft);
    if desired.prune {
        for (map, key) in &observed.unreadable {
            draft.delete(*map, key.clone());
        }
    }
    draft.finish(observed.epoch)
}

fn plan_routes(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    let map = |family| Table::Routes.map(family);
    let mut room = Room::new(observed, map);
    for (prefix, wanted) in &desired.routes {
        let family = Family::of(prefix.network());
        match (wanted, observed.routes.get(prefix)) {
            (Some(route), found) if found != Some(route) => {
                if found.is_some() || room.take(family, 1) {
                    draft.upsert(map(family), prefix_to_bytes(*prefix), route.to_bytes());
                } else {
                    draft.unplaced.routes.insert(*prefix);
                    draft.overflow(
                        map(family),
                        Scope::Route(*prefix),
                        format!("Pod CIDR {prefix}"),
                        "has no route",
                    );
                }
            }
            (None, Some(_)) => draft.delete(map(family), prefix_to_bytes(*prefix)),
            (Some(_) | None, _) => {}
        }
    }
    if desired.prune {
        for prefix in observed.routes.keys().filter(|prefix| !desired.routes.contains_key(prefix)) {
            draft.delete(map(Family::of(prefix.network())), prefix_to_bytes(*prefix));
        }
    }
}

fn plan_netns(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    for (netns, is_pods) in &desired.netns {
        match (is_pods, observed.netns.get(netns)) {
            (true, found) if found != Some(&netns::POD) => {
                draft.upsert(MapId::NETNS, netns_to_bytes(*netns), netns::POD.to_ne_bytes().to_vec());
            }
            (false, Some(_)) => draft.delete(MapId::NETNS, netns_to_bytes(*netns)),
            (true | false, _) => {}
        }
    }
    if desired.prune {
        for netns in observed.netns.keys().filter(|netns| !desired.netns.contains_key(netns)) {
            draft.delete(MapId::NETNS, netns_to_bytes(*netns));
        }
    }
}

/// Free entries of the maps of both families. Entries that the same plan deletes are not counted: they are still
/// there while it writes.
struct Room {
    v4: usize,
    v6: usize,
}

impl Room {
    fn new(observed: &Observed, map: impl Fn(Family) -> MapId) -> Self {
        let of = |family| (map(family).spec().max_entries as usize).saturating_sub(observed.len(map(family)));
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }

    fn take(&mut self, family: Family, entries: usize) -> bool {
        let room = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        let fits = entries <= *room;
        if fits {
            *room -= entries;
        }
        fits
    }
}

/// A plan in the making: the writes of each map, not yet in order.
#[derive(Default)]
struct Draft {
    upserts: BTreeMap<MapId, Vec<Entry>>,
    deletes: BTreeMap<MapId, Vec<Vec<u8>>>,
    problems: Vec<Problem>,
    unplaced: Changed,
    /// A flow that was allowed may no longer be.
    revokes: bool,
}

impl Draft {
    fn upsert(&mut self, map: MapId, key: Vec<u8>, value: Vec<u8>) {
        self.upserts.entry(map).or_default().push((key, value));
    }

    fn delete(&mut self, map: MapId, key: Vec<u8>) {
        self.deletes.entry(map).or_default().push(key);
    }

    fn overflow(&mut self, map: MapId, scope: Scope, object: String, effect: &str) {
        let spec = map.spec();
        self.no_room(
            scope,
            object,
            effect,
            &format!("the map {} is full ({} entries)", spec.name, spec.max_entries),
        );
    }

    fn no_room(&mut self, scope: Scope, object: String, effect: &str, why: &str) {
        let text = format!("{effect}, because {why}; it is tried again when entries are freed");
        self.problems.push(Problem { scope, object, text });
    }

    fn finish(mut self, epoch: u32) -> Plan {
        let mut steps = Vec::new();
        let is_pending = epoch % 2 == 1;
        self.push_upserts(Phase::Ways, &mut steps);
        self.push_upserts(Phase::Rules, &mut steps);
        if self.revokes && !is_pending {
            steps.push(set_epoch(epoch.wrapping_add(1)));
        }
        // An address that nobody vouches for any more is nobody's before any endpoint changes: a peer of the state before
        // must not pass the policy of the state after.
        self.push_deletes(|table| table == Table::Classes, &mut steps);
        self.push_upserts(Phase::Flips, &mut steps);
        self.push_deletes(|table| table.phase() != Phase::Ways, &mut steps);
        if self.revokes || is_pending {
            steps.push(set_epoch(epoch.wrapping_add(if is_pending { 1 } else { 2 })));
        }
        self.push_deletes(|_| true, &mut steps);
        Plan { steps, problems: self.problems, unplaced: self.unplaced }
    }

    fn push_upserts(&mut self, phase: Phase, steps: &mut Vec<Step>) {
        let maps =
            Table::every_map().filter(|map| Table::of(*map).is_some_and(|table| table.phase() == phase));
        let found = maps.filter_map(|map| self.upserts.remove_entry(&map));
        steps.extend(found.map(|(map, entries)| Step { map, action: Action::Upsert(entries) }));
    }

    /// What is still to be deleted from some tables, in the reverse order of writing.
    fn push_deletes(&mut self, of: impl Fn(Table) -> bool, steps: &mut Vec<Step>) {
        let maps = Table::every_map().rev().filter(|map| Table::of(*map).is_some_and(&of));
        let found = maps.filter_map(|map| self.deletes.remove_entry(&map));
        steps.extend(found.map(|(map, keys)| Step { map, action: Action::Delete(keys) }));
    }
}

fn set_epoch(epoch: u32) -> Step {
    let entry = (0_u32.to_ne_bytes().to_vec(), epoch.to_ne_bytes().to_vec());
    Step { map: MapId::POLICY_EPOCH, action: Action::Upsert(vec![entry]) }
}
