//! Executing a plan. A step that fails stays pending, for the next plan to repeat; steps that build on it wait with
//! it, the others go on. An endpoint whose policy set cannot be written is isolated completely meanwhile.
use std::collections::BTreeSet;

use agent_core::{
    entry::{self, PolicyEntry},
    plan::{Action, Step},
    table::Table,
};
use bpf_maps::{Entry, Error};
use dataplane_common::{maps::MapId, policy::SET_DENY_ALL};
use zerocopy::IntoBytes as _;

use super::maps::Maps;

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct ApplyReport {
    /// Entries written.
    pub(crate) written: u64,
    /// Entries deleted.
    pub(crate) deleted: u64,
    /// Why steps did not succeed; each names its map.
    pub(crate) failures: Vec<Error>,
    /// Steps that were not tried, because they build on one of those.
    pub(crate) postponed: usize,
    /// Endpoints that are cut off until their policy can be written.
    pub(crate) isolated: usize,
    /// Frontends were written or deleted.
    pub(crate) services_changed: bool,
}

impl ApplyReport {
    /// Whether the maps hold what was planned.
    pub(crate) fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.postponed == 0
    }
}

/// The effect of a step: how many entries, in order, are done, and why not all.
pub(crate) trait Writer {
    fn upsert(&self, map: MapId, entries: &[Entry]) -> (usize, Result<(), Error>);
    fn delete(&self, map: MapId, keys: &[Vec<u8>]) -> (usize, Result<(), Error>);
}

impl Writer for Maps {
    fn upsert(&self, map: MapId, entries: &[Entry]) -> (usize, Result<(), Error>) {
        done(self.get(map).update_batch(entries), entries.len())
    }

    fn delete(&self, map: MapId, keys: &[Vec<u8>]) -> (usize, Result<(), Error>) {
        done(self.get(map).delete_batch(keys).map(drop), keys.len())
    }
}

fn done(result: Result<(), Error>, total: usize) -> (usize, Result<(), Error>) {
    match &result {
        Ok(()) => (total, result),
        Err(Error::Partial { done, .. }) => (*done, result),
        Err(_) => (0, result),
    }
}

/// Executes the steps in order; `record` hears of everything that is in the maps afterwards.
pub(crate) fn apply(steps: Vec<Step>, writer: &impl Writer, mut record: impl FnMut(&Step)) -> ApplyReport {
    let mut report = ApplyReport::default();
    let mut broken = Broken::default();
    for step in steps {
        if broken.holds_back(&step) {
            report.postponed += 1;
            continue;
        }
        let (step, isolated) = broken.fail_closed(step);
        report.isolated += isolated;
        let (done, result) = match &step.action {
            Action::Upsert(entries) => writer.upsert(step.map, entries),
            Action::Delete(keys) => writer.delete(step.map, keys),
        };
        let (did, rest) = split(step, done);
        match &did.action {
            Action::Upsert(entries) => report.written += entries.len() as u64,
            Action::Delete(keys) => report.deleted += keys.len() as u64,
        }
        report.services_changed |= done > 0 && Table::of(did.map) == Some(Table::Frontends);
        record(&did);
        if let Err(error) = result {
            broken.note(&rest);
            report.failures.push(error);
        }
    }
    report
}

/// What failed so far.
#[derive(Debug, Default)]
struct Broken {
    /// Maps that miss entries.
    maps: BTreeSet<MapId>,
    /// Policy sets that miss rules.
    sets: BTreeSet<u32>,
}

impl Broken {
    fn note(&mut self, rest: &Step) {
        let Action::Upsert(entries) = &rest.action else { return };
        self.maps.insert(rest.map);
        if rest.map == MapId::POLICIES {
            self.sets.extend(entries.iter().filter_map(|(key, _)| Some(PolicyEntry::from_bytes(key)?.set)));
        }
    }

    /// Whether a step must wait for entries that could not be written.
    fn holds_back(&self, step: &Step) -> bool {
        match step.action {
            // A frontend would send its clients to slots of somebody else.
            Action::Upsert(_) => Table::needed_to_write(step.map).any(|map| self.maps.contains(&map)),
            // Endpoints and peers may still use the rules.
            Action::Delete(_) => Table::needed_to_delete(step.map).any(|map| self.maps.contains(&map)),
        }
    }

    /// Points endpoints at [`SET_DENY_ALL`] in place of a set that is not whole. Every rule is an allow, so a peer
    /// whose class or rule is missing is denied without this.
    fn fail_closed(&self, step: Step) -> (Step, usize) {
        let Step { map, action } = step;
        let is_endpoints = Table::of(map) == Some(Table::Endpoints);
        let Action::Upsert(mut entries) = action else { return (Step { map, action }, 0) };
        let mut isolated = 0;
        for (_, bytes) in entries.iter_mut().filter(|_| is_endpoints && !self.sets.is_empty()) {
            let Some(mut value) = entry::endpoint_value(bytes) else { continue };
            let sets = [&mut value.ingress_set, &mut value.egress_set];
            let denied =
                sets.into_iter().filter(|set| self.sets.contains(set)).map(|set| *set = SET_DENY_ALL);
            isolated += usize::from(denied.count() > 0);
            *bytes = value.as_bytes().to_vec();
        }
        (Step { map, action: Action::Upsert(entries) }, isolated)
    }
}

/// A step as far as it was done, and the rest of it.
fn split(step: Step, done: usize) -> (Step, Step) {
    let map = step.map;
    let (did, rest) = match step.action {
        Action::Upsert(mut entries) => {
            let rest = entries.split_off(done.min(entries.len()));
            (Action::Upsert(entries), Action::Upsert(rest))
        }
        Action::Delete(mut keys) => {
            let rest = keys.split_off(done.min(keys.len()));
            (Action::Delete(keys), Action::Delete(rest))
        }
    };
    (Step { map, action: did }, Step { map, action: rest })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io};

    use agent_core::entry::PortPrefix;
    use bpf_maps::Operation;
    use dataplane_common::endpoint::EndpointValue;
    use zerocopy::FromZeros as _;

    use super::*;

    /// Maps of which some refuse every entry after the first `room`.
    #[derive(Default)]
    struct Kernel {
        full: Vec<MapId>,
        room: usize,
        written: RefCell<Vec<(MapId, Entry)>>,
    }

    impl Writer for Kernel {
        fn upsert(&self, map: MapId, entries: &[Entry]) -> (usize, Result<(), Error>) {
            let is_full = self.full.contains(&map);
            let room = if is_full { self.room.min(entries.len()) } else { entries.len() };
            self.written.borrow_mut().extend(entries[..room].iter().map(|entry| (map, entry.clone())));
            let source = || io::Error::from_raw_os_error(libc::ENOSPC);
            let name = map.spec().name.to_owned();
            let (operation, total) = (Operation::Update, entries.len());
            let full = || Error::Partial { operation, map: name, done: room, total, source: source() };
            (room, if room < entries.len() { Err(full()) } else { Ok(()) })
        }

        fn delete(&self, _: MapId, keys: &[Vec<u8>]) -> (usize, Result<(), Error>) {
            (keys.len(), Ok(()))
        }
    }

    fn upsert(map: MapId, entries: Vec<Entry>) -> Step {
        Step { map, action: Action::Upsert(entries) }
    }

    fn delete(map: MapId) -> Step {
        Step { map, action: Action::Delete(vec![vec![1]]) }
    }

    fn rule(set: u32) -> Entry {
        (PolicyEntry { set, class: 0, ports: PortPrefix::EVERYTHING }.to_bytes(), vec![0; 8])
    }

    fn endpoint(ingress_set: u32, egress_set: u32) -> Entry {
        let value = EndpointValue { ingress_set, egress_set, ..EndpointValue::new_zeroed() };
        (vec![10, 0, 0, 1], value.as_bytes().to_vec())
    }

    fn run(steps: Vec<Step>, kernel: &Kernel) -> (ApplyReport, Vec<MapId>) {
        let mut recorded = Vec::new();
        let report = apply(steps, kernel, |step| recorded.push(step.map));
        (report, recorded)
    }

    #[test]
    fn a_plan_that_succeeds_is_recorded_whole() {
        let steps = vec![upsert(MapId::BACKENDS_V4, vec![rule(1)]), delete(MapId::FRONTENDS_V4)];
        let (report, recorded) = run(steps, &Kernel::default());
        assert!(report.is_complete() && report.services_changed);
        assert_eq!((report.written, report.deleted), (1, 1));
        assert_eq!(recorded, [MapId::BACKENDS_V4, MapId::FRONTENDS_V4]);
    }

    #[test]
    fn frontends_wait_for_their_backends_and_the_other_family_does_not() {
        let entries = || vec![rule(1)];
        let steps = vec![
            upsert(MapId::BACKENDS_V4, entries()),
            upsert(MapId::BACKENDS_V6, entries()),
            upsert(MapId::FRONTENDS_V4, entries()),
            upsert(MapId::FRONTENDS_V6, entries()),
        ];
        let kernel = Kernel { full: vec![MapId::BACKENDS_V4], ..Kernel::default() };
        let (report, _) = run(steps, &kernel);
        assert_eq!((report.failures.len(), report.postponed), (1, 1));
        let written: Vec<MapId> = kernel.written.borrow().iter().map(|(map, _)| *map).collect();
        assert_eq!(written, [MapId::BACKENDS_V6, MapId::FRONTENDS_V6]);
    }

    #[test]
    fn what_was_written_before_a_failure_is_recorded() {
        let kernel = Kernel { full: vec![MapId::POLICIES], room: 2, ..Kernel::default() };
        let steps = vec![upsert(MapId::POLICIES, vec![rule(1), rule(2), rule(3)])];
        let mut recorded = Vec::new();
        let report = apply(steps, &kernel, |step| recorded.push(step.clone()));
        assert_eq!(report.written, 2);
        assert_eq!(recorded, [upsert(MapId::POLICIES, vec![rule(1), rule(2)])]);
    }

    #[test]
    fn an_endpoint_whose_set_is_not_whole_is_isolated_in_that_direction() {
        let kernel = Kernel { full: vec![MapId::POLICIES], room: 1, ..Kernel::default() };
        let steps = vec![
            upsert(MapId::POLICIES, vec![rule(7), rule(8)]),
            upsert(MapId::ENDPOINTS_V4, vec![endpoint(7, 8), endpoint(7, 0)]),
        ];
        let (report, _) = run(steps, &kernel);
        assert_eq!(report.isolated, 1);
        let written = kernel.written.borrow();
        let sets = written.iter().filter(|(map, _)| *map == MapId::ENDPOINTS_V4).map(|(_, (_, value))| {
            let value = entry::endpoint_value(value).unwrap();
            (value.ingress_set, value.egress_set)
        });
        assert_eq!(sets.collect::<Vec<_>>(), [(7, SET_DENY_ALL), (7, 0)]);
    }

    #[test]
    fn rules_are_not_deleted_while_an_endpoint_may_still_use_them() {
        let steps = || vec![upsert(MapId::ENDPOINTS_V6, vec![endpoint(1, 1)]), delete(MapId::POLICIES)];
        let kernel = Kernel { full: vec![MapId::ENDPOINTS_V6], ..Kernel::default() };
        assert_eq!(run(steps(), &kernel).0.postponed, 1);
        assert_eq!(run(steps(), &Kernel::default()).0.deleted, 1);
    }
}
