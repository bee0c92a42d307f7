//! Frontends and their ranges of backend slots.
use dataplane_common::service::FrontendValue;
use zerocopy::IntoBytes;

use super::{Draft, Room};
use crate::{
    entry::Frontend,
    model::Family,
    observed::{Observed, ObservedFrontend, Ranges, frontend_map},
    problem::Scope,
    render::{Desired, FrontendEntry},
    table::Table,
};

pub(super) fn plan(desired: &Desired, observed: &Observed, draft: &mut Draft) {
    let mut allocator = Allocator { observed, v4: None, v6: None };
    let mut room = Room::new(observed, |family| Table::Frontends.map(family));
    for (frontend, wanted) in &desired.frontends {
        let found = observed.frontends.get(frontend).copied();
        match (wanted, found) {
            (Some(entry), found) => {
                plan_frontend(*frontend, entry, found, &mut allocator, &mut room, draft);
            }
            (None, Some(_)) => draft.delete(frontend_map(*frontend), frontend.to_bytes()),
            (None, None) => {}
        }
    }
    if desired.prune {
        for frontend in observed.frontends.keys().filter(|frontend| !desired.frontends.contains_key(frontend))
        {
            draft.delete(frontend_map(*frontend), frontend.to_bytes());
        }
    }
}

fn plan_frontend(
    frontend: Frontend,
    entry: &FrontendEntry,
    found: Option<ObservedFrontend>,
    allocator: &mut Allocator<'_>,
    room: &mut Room,
    draft: &mut Draft,
) {
    let family = Family::of(frontend.addr);
    let FrontendEntry { backends, kept, .. } = entry;
    let (Ok(backends_count), Ok(kept_count)) = (u16::try_from(backends.len()), u16::try_from(kept.len()))
    else {
        return;
    };
    let slots = || backends.iter().chain(kept);
    let present = found.filter(|found| {
        let counts = (found.value.backends_count, found.value.kept_count);
        found.owns_range
            && counts == (backends_count, kept_count)
            && allocator.observed.slots(family).hold(found.value.backends_start, slots())
    });
    let mut value = FrontendValue {
        service_id: entry.service_id.0,
        backends_start: present.map_or(0, |present| present.value.backends_start),
        backends_count,
        kept_count,
        flags: entry.flags,
        reserved: 0,
    };
    if present.is_some_and(|present| present.value == value) {
        return;
    }
    let object = || format!("Service {}", entry.service);
    if found.is_none() && !room.take(family, 1) {
        draft.unplaced.frontends.insert(frontend);
        draft.overflow(frontend_map(frontend), Scope::Frontend(frontend), object(), "does not work");
        return;
    }
    if present.is_none() && value.slots() > 0 {
        let map = Table::Backends.map(family);
        let Some(start) = allocator.allocate(family, value.slots()) else {
            let effect = if found.is_some() { "keeps its old backends" } else { "does not work" };
            let why = allocator.no_room(family, value.slots());
            draft.unplaced.frontends.insert(frontend);
            draft.no_room(Scope::Frontend(frontend), object(), effect, &why);
            return;
        };
        for (slot, backend) in (start..).zip(slots()) {
            draft.upsert(map, slot.to_ne_bytes().to_vec(), backend.to_bytes());
        }
        value.backends_start = start;
    }
    draft.upsert(frontend_map(frontend), frontend.to_bytes(), value.as_bytes().to_vec());
}

/// Hands out slots to one plan. The observed ranges are copied when the first one is needed: a plan that allocates
/// nothing pays nothing.
struct Allocator<'a> {
    observed: &'a Observed,
    v4: Option<Ranges>,
    v6: Option<Ranges>,
}

impl Allocator<'_> {
    fn allocate(&mut self, family: Family, length: u32) -> Option<u32> {
        let ranges = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        ranges.get_or_insert_with(|| self.observed.slots(family).ranges.clone()).allocate(length)
    }

    /// Why there is no range of a length.
    fn no_room(&self, family: Family, length: u32) -> String {
        let map = Table::Backends.map(family).spec();
        let ranges = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let (free, resting) = ranges.as_ref().map_or((0, 0), |ranges| (ranges.available(), ranges.resting()));
        format!(
            "the map {} has no {length} entries in a row ({free} of {} are free, and {resting} were in use a moment ago)",
            map.name, map.max_entries
        )
    }
}
