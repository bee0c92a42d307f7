//! Policy sets, classes and address ranges.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_common::{
    maps::MapId,
    policy::{PolicyValue, SET_DENY_ALL, verdict},
};
use ipnetwork::IpNetwork;
use zerocopy::IntoBytes;

use super::{Draft, Room};
use crate::{
    entry::{PolicyEntry, PortPrefix, addr_to_bytes, prefix_to_bytes},
    ids::{ClassId, RuleId, SetId},
    model::Family,
    observed::Observed,
    problem::Scope,
    render::{Cell, Desired, SetEntries},
    table::Table,
};

/// Which sets may be used.
pub(super) struct Placed {
    unplaced: BTreeSet<SetId>,
}

impl Placed {
    /// The number of a set in the maps. A set that does not fit is replaced by the one that allows nothing.
    pub(super) fn number(&self, set: Option<SetId>) -> u32 {
        match set {
            None => 0,
            Some(set) if self.unplaced.contains(&set) => SET_DENY_ALL,
            Some(set) => set.0,
        }
    }

    pub(super) fn has(&self, set: Option<SetId>) -> bool {
        set.is_none_or(|set| !self.unplaced.contains(&set))
    }
}

pub(super) fn plan(desired: &Desired, observed: &Observed, draft: &mut Draft) -> Placed {
    let placed = plan_sets(desired, observed, draft);
    plan_classes(desired, observed, draft);
    if let Some(cidrs) = &desired.cidrs {
        for family in [Family::V4, Family::V6] {
            plan_cidrs(cidrs, family, observed, draft);
        }
    }
    placed
}

fn plan_sets(desired: &Desired, observed: &Observed, draft: &mut Draft) -> Placed {
    let in_use = observed.sets_in_use();
    let is_needed = |set: SetId| !desired.lingering.contains(&set) || in_use.contains(&set.0);
    let mut room = (MapId::POLICIES.spec().max_entries as usize).saturating_sub(observed.policies.len());
    let mut unplaced = BTreeSet::new();
    for (&(set, class), cell) in &desired.cells {
        let wanted =
            if is_needed(set) { entries_of_cell(set, class, cell).collect() } else { BTreeMap::new() };
        let scope = bounds(set, Some(class));
        if !diff_scope(&wanted, scope, observed, &mut room, draft) {
            draft.unplaced.classes.insert(class);
            let object = format!("Policy set {set}");
            draft.overflow(
                MapId::POLICIES,
                Scope::Cell(set, class),
                object,
                "denies some of what it should allow",
            );
        }
    }
    for (&set, entries) in &desired.sets {
        let entries = entries.as_ref().filter(|_| is_needed(set));
        let wanted = entries.map(|entries| entries_of_set(set, entries)).unwrap_or_default();
        if !diff_scope(&wanted, bounds(set, None), observed, &mut room, draft) {
            unplaced.insert(set);
            draft.unplaced.sets.insert(set);
            let names = entries.into_iter().flat_map(|entries| &entries.policies);
            let names: Vec<String> = names.map(ToString::to_string).collect();
            let object = format!("NetworkPolicy {}", names.join(", "));
            draft.overflow(
                MapId::POLICIES,
                Scope::Set(set),
                object,
                "denies everything to the pods it selects",
            );
        }
    }
    if desired.prune {
        for entry in observed.policies.keys().filter(|entry| !desired.sets.contains_key(&SetId(entry.set))) {
            draft.delete(MapId::POLICIES, entry.to_bytes());
            draft.revokes = true;
        }
    }
    Placed { unplaced }
}

fn entries_of_set(set: SetId, entries: &SetEntries) -> BTreeMap<PolicyEntry, RuleId> {
    entries.cells.iter().flat_map(|(class, cell)| entries_of_cell(set, *class, cell)).collect()
}

fn entries_of_cell(
    set: SetId,
    class: ClassId,
    cell: &Cell,
) -> impl Iterator<Item = (PolicyEntry, RuleId)> + '_ {
    cell.iter().map(move |(ports, rule)| (PolicyEntry { set: set.0, class: class.0, ports: *ports }, *rule))
}

/// The first and last key of a set, or of one class of it.
fn bounds(set: SetId, class: Option<ClassId>) -> std::ops::RangeInclusive<PolicyEntry> {
    let (first, last) = class.map_or((0, u32::MAX), |class| (class.0, class.0));
    let entry = |class, ports| PolicyEntry { set: set.0, class, ports };
    entry(first, PortPrefix::FIRST)..=entry(last, PortPrefix::LAST)
}

/// Makes the entries of a scope those that are wanted. Returns whether they fit; if not, only deletes are planned.
fn diff_scope(
    wanted: &BTreeMap<PolicyEntry, RuleId>,
    scope: std::ops::RangeInclusive<PolicyEntry>,
    observed: &Observed,
    room: &mut usize,
    draft: &mut Draft,
) -> bool {
    for (entry, _) in observed.policies.range(scope).filter(|(entry, _)| !wanted.contains_key(entry)) {
        draft.delete(MapId::POLICIES, entry.to_bytes());
        draft.revokes = true;
    }
    let new = wanted.keys().filter(|entry| !observed.policies.contains_key(entry)).count();
    let fits = new <= *room;
    if !fits {
        return false;
    }
    *room -= new;
    for (entry, rule) in wanted {
        let value = PolicyValue { rule: rule.0, verdict: verdict::ALLOW, reserved: [0; 3] };
        let found = observed.policies.get(entry);
        if found != Some(&value) {
            draft.revokes |= found.is_some();
            draft.upsert(MapId::POLICIES, entry.to_bytes(), value.as_bytes().to_vec());
        }
    }
    true
}

fn plan_classes(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    let map = |family| Table::Classes.map(family);
    let mut room = Room::new(observed, map);
    for (addr, wanted) in &desired.classes {
        let family = Family::of(*addr);
        match (wanted, observed.classes.get(addr)) {
            (Some(class), found) if found != Some(&class.0) => {
                if found.is_some() || room.take(family, 1) {
                    // Another class may match less; the first one can only match more than none.
                    draft.revokes |= found.is_some();
                    draft.upsert(map(family), addr_to_bytes(*addr), class.0.to_ne_bytes().to_vec());
                } else {
                    draft.unplaced.addresses.insert(*addr);
                    let object = format!("Pod address {addr}");
                    draft.overflow(map(family), Scope::Address(*addr), object, "matches no policy peer");
                }
            }
            (None, Some(_)) => delete_class(*addr, draft),
            (Some(_) | None, _) => {}
        }
    }
    if desired.prune {
        for addr in observed.classes.keys().filter(|addr| !desired.classes.contains_key(addr)) {
            delete_class(*addr, draft);
        }
    }
}

fn delete_class(addr: IpAddr, draft: &mut Draft) {
    draft.revokes = true;
    draft.delete(Table::Classes.map(Family::of(addr)), addr_to_bytes(addr));
}

/// A trie is written whole or not at all: without an exception its range would allow too much. Addresses then keep
/// their old classes, for which new sets have no entries: denied.
fn plan_cidrs(wanted: &BTreeMap<IpNetwork, ClassId>, family: Family, observed: &Observed, draft: &mut Draft) {
    let map = Table::Cidrs.map(family);
    let of_family = |prefix: &IpNetwork| Family::of(prefix.network()) == family;
    let differs = |(prefix, class): &(&IpNetwork, &ClassId)| observed.cidrs.get(prefix) != Some(&class.0);
    let upserts: Vec<_> = wanted.iter().filter(|(prefix, _)| of_family(prefix)).filter(differs).collect();
    let new = upserts.iter().filter(|(prefix, _)| !observed.cidrs.contains_key(prefix)).count();
    if observed.len(map) + new > map.spec().max_entries as usize {
        draft.unplaced.cidrs = true;
        let object = format!("ipBlocks of {family}");
        draft.overflow(map, Scope::Cidrs(family), object, "changed, and the change is not in force");
        return;
    }
    for (prefix, class) in upserts {
        draft.revokes = true;
        draft.upsert(map, prefix_to_bytes(*prefix), class.0.to_ne_bytes().to_vec());
    }
    for prefix in observed.cidrs.keys().filter(|prefix| of_family(prefix) && !wanted.contains_key(prefix)) {
        draft.revokes = true;
        draft.delete(map, prefix_to_bytes(*prefix));
    }
}
