//! What the loop notes of itself: at the end of each pass, and of no more than what changed in it.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use agent_core::{entry::Frontend, model::Family, render::Desired, update::Update};
use agent_sources::source::{Batch, Event, Trigger};
use dataplane_common::{maps::MapId, service::flag};
use nix::errno::Errno;

use crate::{
    dataplane::ApplyReport,
    vitals::{FAMILIES, Kindred, Moment, Phase, Vitals},
};

/// The loop's part of [`Vitals`].
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) vitals: Arc<Vitals>,
    /// When this agent started: what changed before is no measure of it.
    started: SystemTime,
    /// When this pass began, and what of it is accounted for.
    pub(super) pass: Instant,
    pub(super) accounted: Duration,
    /// Changes that are not in the maps.
    unprogrammed: Vec<(Instant, Kindred)>,
    triggers: Vec<Trigger>,
    /// Frontends without backends, and whether other nodes have some.
    pub(super) empty: HashMap<Frontend, bool>,
    pub(super) isolated: usize,
    pub(super) problems: BTreeMap<&'static str, usize>,
    /// What was rendered or reported since the last snapshot.
    pub(super) are_maps_changed: bool,
    pub(super) are_problems_changed: bool,
    pub(super) entries: Vec<(MapId, usize)>,
    /// Programs that were not attached at the last look at the hooks, if there was one.
    pub(super) unattached: Option<Vec<String>>,
}

impl Noted {
    pub(super) fn new(vitals: Arc<Vitals>) -> Self {
        Self {
            vitals,
            started: SystemTime::now(),
            pass: Instant::now(),
            accounted: Duration::ZERO,
            unprogrammed: Vec::new(),
            triggers: Vec::new(),
            empty: HashMap::new(),
            isolated: 0,
            problems: BTreeMap::new(),
            are_maps_changed: true,
            are_problems_changed: true,
            entries: Vec::new(),
            unattached: None,
        }
    }

    /// A pass begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.vitals.pulse.beat(now);
        (self.pass, self.accounted) = (now, Duration::ZERO);
    }

    /// A phase of this pass is done.
    pub(super) fn took(&mut self, phase: Phase, time: Duration) {
        self.accounted += time;
        self.vitals.pulse.took(phase, time);
    }

    /// The source sent something.
    pub(super) fn seen(&mut self, event: &Event) {
        let Batch { updates, reports, triggers } = &event.batch;
        self.are_problems_changed |= !reports.is_empty();
        let count =
            |wanted: fn(&Update) -> bool| updates.iter().filter(|&update| wanted(update)).count() as u64;
        let services = count(|update| matches!(update, Update::Service(_)));
        let slices = count(|update| matches!(update, Update::EndpointSlice(_)));
        self.vitals.proxy.queued(services, slices, Moment::now());
        self.triggers.extend(triggers.iter().filter(|trigger| trigger.at > self.started));
    }

    /// What changes are about.
    pub(super) fn kindreds(updates: &[Update]) -> impl Iterator<Item = Kindred> + use<> {
        let has = |wanted: fn(&Update) -> bool| updates.iter().any(wanted);
        let services = has(|update| matches!(update, Update::Service(_) | Update::EndpointSlice(_)));
        let policies =
            has(|update| matches!(update, Update::NetworkPolicy(_) | Update::Pod(_) | Update::Namespace(_)));
        [services.then_some(Kindred::Services), policies.then_some(Kindred::Policies)].into_iter().flatten()
    }

    /// Changes wait for being programmed.
    pub(super) fn unprogrammed(&mut self, seen: Instant, kindreds: impl Iterator<Item = Kindred>) {
        self.unprogrammed.extend(kindreds.map(|kindred| (seen, kindred)));
    }

    /// Something was rendered and written, in so much time.
    pub(super) fn applied(&mut self, frontends: &Rendered, report: &ApplyReport, took: Duration) {
        self.are_maps_changed = true;
        if report.isolated > 0 {
            self.isolated = report.isolated;
        }
        self.vitals.pulse.wrote(report.written, report.deleted);
        for error in &report.failures {
            let errno = error
                .errno()
                .map_or_else(|| "none".to_owned(), |number| format!("{:?}", Errno::from_raw(number)));
            self.vitals.pulse.refused(map_of(error), &errno);
        }
        if frontends.prune {
            self.empty.clear();
        }
        for &(frontend, empty) in &frontends.changed {
            match empty {
                Some(has_elsewhere) => _ = self.empty.insert(frontend, has_elsewhere),
                None => _ = self.empty.remove(&frontend),
            }
        }
        for family in FAMILIES {
            if frontends.changed.iter().any(|(frontend, _)| Family::of(frontend.addr) == family) {
                self.vitals.proxy.sync[family as usize].observe(took.as_secs_f64());
            }
        }
    }

    /// The maps hold what was seen. The first lists tell how long the start took, not how long a change takes.
    pub(super) fn programmed(&mut self, was_synced: bool) {
        for (seen, kindred) in self.unprogrammed.drain(..).filter(|_| was_synced) {
            self.vitals.pulse.programmed(kindred, seen.elapsed());
        }
        for trigger in self.triggers.drain(..) {
            // By another clock: one that goes before it has taken no time.
            let took = trigger.at.elapsed().unwrap_or_default();
            self.vitals.proxy.network_programming[trigger.family as usize].observe(took.as_secs_f64());
        }
    }

    /// The maps hold all of the cluster that was seen.
    pub(super) fn updated(&mut self) {
        self.isolated = 0;
        self.vitals.proxy.updated(Moment::now());
    }

    /// The hooks were looked at: what is not attached.
    pub(super) fn looked_at_hooks(&mut self, unattached: Vec<String>) {
        self.unattached = Some(unattached);
        // Who is shown may have changed; that is as good a time as any.
        self.are_problems_changed = true;
    }

    pub(super) fn frontends_without_local(&self) -> [usize; 2] {
        FAMILIES.map(|family| {
            let of = |(frontend, has_elsewhere): &(&Frontend, &bool)| {
                **has_elsewhere && Family::of(frontend.addr) == family
            };
            self.empty.iter().filter(of).count()
        })
    }
}

/// What matters of rendered frontends once they are written.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    /// Every frontend is here.
    prune: bool,
    /// Whether it is without backends, and then whether other nodes have some.
    changed: Vec<(Frontend, Option<bool>)>,
}

impl Rendered {
    pub(super) fn of(desired: &Desired) -> Self {
        let changed = desired.frontends.iter().map(|(frontend, entry)| {
            let empty = entry.as_ref().filter(|entry| entry.backends.is_empty());
            (*frontend, empty.map(|entry| entry.flags & flag::DROP_WHEN_EMPTY != 0))
        });
        Self { prune: desired.prune, changed: changed.collect() }
    }
}

/// The map that a write to failed.
fn map_of(error: &bpf_maps::Error) -> &str {
    if let bpf_maps::Error::Partial { map, .. } | bpf_maps::Error::Syscall { object: map, .. } = error {
        map
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use agent_core::{
        entry::Backend,
        ids::ServiceId,
        model::ObjectName,
        render::FrontendEntry,
        update::{Change, Kind},
    };

    use super::*;
    use crate::vitals::count;

    fn noted() -> Noted {
        Noted::new(Arc::default())
    }

    fn frontend(text: &str) -> Frontend {
        Frontend::cluster(text.parse::<IpAddr>().unwrap(), 80, 6)
    }

    /// What is rendered of a frontend; none: it goes.
    fn rendered(prune: bool, frontends: &[(&str, Option<(usize, u16)>)]) -> Rendered {
        let entry = |(backends, flags): (usize, u16)| FrontendEntry {
            service: Arc::new(ObjectName::new("shop", "web")),
            service_id: ServiceId(1),
            flags,
            backends: vec![Backend { addr: [10, 0, 0, 1].into(), port: 80 }; backends],
            kept: Vec::new(),
        };
        let frontends = frontends.iter().map(|(addr, of)| (frontend(addr), of.map(entry))).collect();
        Rendered::of(&Desired { prune, frontends, ..Desired::default() })
    }

    #[test]
    fn frontends_without_backends_are_counted_by_what_changes() {
        let mut noted = noted();
        let mut counts = |prune, frontends: &[(&str, Option<(usize, u16)>)]| {
            noted.applied(&rendered(prune, frontends), &ApplyReport::default(), Duration::ZERO);
            (noted.empty.len(), noted.frontends_without_local())
        };
        let all = [
            ("10.96.0.1", Some((0, 0))),
            ("10.96.0.2", Some((3, 0))),
            ("fd00::1", Some((0, flag::DROP_WHEN_EMPTY))),
        ];
        assert_eq!(counts(true, &all), (2, [0, 1]));
        assert_eq!(counts(false, &[("10.96.0.1", Some((0, 0)))]), (2, [0, 1]), "as before");
        assert_eq!(counts(false, &[("10.96.0.1", Some((1, 0))), ("10.96.0.2", None)]), (1, [0, 1]));
        assert_eq!(counts(false, &[("fd00::1", None)]), (0, [0, 0]));
        assert_eq!(counts(false, &all), (2, [0, 1]));
        assert_eq!(counts(true, &[("10.96.0.9", Some((0, 0)))]), (1, [0, 0]), "what is not rendered is gone");
    }

    #[test]
    fn the_time_of_a_change_counts_from_what_made_it_and_only_since_the_start() {
        let mut noted = noted();
        let trigger = |at| Trigger { family: Family::V4, at };
        let old = noted.started - Duration::from_secs(5);
        let new = SystemTime::now() + Duration::from_hours(1);
        let batch = Batch { triggers: vec![trigger(old), trigger(new)], ..Batch::default() };
        noted.seen(&Event { seen: Instant::now(), batch });
        let counts = |noted: &Noted| noted.vitals.proxy.network_programming.each_ref().map(count);
        assert_eq!(counts(&noted), [0, 0], "it is not in the maps yet");
        noted.programmed(true);
        assert_eq!(counts(&noted), [1, 0]);
        noted.programmed(true);
        assert_eq!(counts(&noted), [1, 0]);
    }

    #[test]
    fn the_first_lists_do_not_count_as_changes() {
        let mut noted = noted();
        let updates = [Update::Service(Change::Delete(ObjectName::new("a", "b"))), Update::Synced(Kind::Pod)];
        let kindreds = || Noted::kindreds(&updates);
        assert_eq!(kindreds().collect::<Vec<_>>(), [Kindred::Services]);
        let counts =
            |noted: &Noted| noted.vitals.pulse.programming().map(|(_, of)| count(of)).collect::<Vec<_>>();
        noted.unprogrammed(Instant::now(), kindreds());
        noted.programmed(false);
        assert_eq!(counts(&noted), [0, 0]);
        noted.unprogrammed(Instant::now(), kindreds());
        noted.programmed(true);
        assert_eq!(counts(&noted), [1, 0]);
    }

    #[test]
    fn changes_of_services_wait_until_the_maps_hold_them() {
        let mut noted = noted();
        let updates = vec![Update::EndpointSlice(Change::Delete(ObjectName::new("a", "b")))];
        noted.seen(&Event { seen: Instant::now(), batch: Batch { updates, ..Batch::default() } });
        assert_eq!(noted.vitals.proxy.changes(), [(0, 0), (1, 1)]);
        noted.updated();
        assert_eq!(noted.vitals.proxy.changes(), [(0, 0), (1, 0)]);
    }

    #[test]
    fn pods_that_are_cut_off_are_told_until_everything_is_written() {
        let mut noted = noted();
        let mut apply = |isolated| {
            let report = ApplyReport { isolated, ..ApplyReport::default() };
            noted.applied(&Rendered::default(), &report, Duration::ZERO);
            noted.isolated
        };
        assert_eq!([0, 2, 0].map(&mut apply), [0, 2, 2], "another plan says nothing of them");
        noted.updated();
        assert_eq!(noted.isolated, 0);
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_by_map_and_error() {
        let mut noted = noted();
        let source = || std::io::Error::from_raw_os_error(libc::E2BIG);
        let (operation, map) = (bpf_maps::Operation::Update, "POLICIES".to_owned());
        let failures = vec![
            bpf_maps::Error::Partial { operation, map: map.clone(), done: 1, total: 2, source: source() },
            bpf_maps::Error::Syscall { operation, object: map, source: source() },
            bpf_maps::Error::UnknownKind { map: "OLD".to_owned(), kind: 99 },
        ];
        let report = ApplyReport { failures, written: 1, ..ApplyReport::default() };
        noted.applied(&Rendered::default(), &report, Duration::ZERO);
        let pair = |map: &str, errno: &str| (map.to_owned(), errno.to_owned());
        let expected = BTreeMap::from([(pair("POLICIES", "E2BIG"), 2), (pair("other", "none"), 1)]);
        assert_eq!(*noted.vitals.pulse.errors(), expected);
        assert_eq!(noted.vitals.pulse.writes(), [1, 0]);
    }

    #[test]
    fn a_pass_beats() {
        let mut noted = noted();
        let later = noted.pass + Duration::from_secs(5);
        noted.begin(later);
        assert!(later - noted.vitals.pulse.last_beat() < Duration::from_millis(2));
    }
}
