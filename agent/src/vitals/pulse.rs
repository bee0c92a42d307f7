//! What the agent's loop notes: that it lives, how long it takes, and what it came to.
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use agent_core::update::Kind;
use agent_sources::source::Event;
use dataplane_common::maps::MapId;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::mpsc::WeakSender;

use crate::cni_server::CniEvent;

/// Seconds that a phase of the loop takes: a change is a fraction of a millisecond, a start of a large node a second.
const PHASE_BUCKETS: [f64; 5] = [0.000_1, 0.001, 0.01, 0.1, 1.0];
/// Seconds from the source to the maps.
const PROGRAMMING_BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Pairs of map and error that are told apart.
const MAX_ERRORS: usize = 16;

/// A part of a pass of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Take,
    Render,
    Plan,
    Apply,
    Rest,
}

const PHASES: [&str; 5] = ["take", "render", "plan", "apply", "rest"];

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kindred {
    Services,
    Policies,
}

const KINDREDS: [&str; 2] = ["services", "policies"];

/// The loop.
#[derive(Debug)]
pub(crate) struct Pulse {
    origin: Instant,
    /// Milliseconds since the origin.
    beat: AtomicU64,
    phases: [Histogram; PHASES.len()],
    programming: [Histogram; KINDREDS.len()],
    written: AtomicU64,
    deleted: AtomicU64,
    errors: Mutex<BTreeMap<(String, String), u64>>,
    queues: OnceLock<(WeakSender<Event>, WeakSender<CniEvent>)>,
    last: Mutex<Option<Arc<Snapshot>>>,
}

/// What the loop came to at the end of its last pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// In the order of [`Kind::ALL`].
    pub(crate) synced: [bool; Kind::ALL.len()],
    pub(crate) objects: [usize; Kind::ALL.len()],
    pub(crate) entries: Vec<(MapId, usize)>,
    pub(crate) hooks_in_place: usize,
    pub(crate) hooks_missing: usize,
    pub(crate) hook_repairs: u64,
    pub(crate) endpoints: usize,
    pub(crate) endpoints_waiting: usize,
    pub(crate) endpoints_without_object: usize,
    pub(crate) endpoints_isolated: usize,
    pub(crate) frontends_without_backends: usize,
    /// Of these, those that have some on other nodes only: IPv4, IPv6.
    pub(crate) frontends_without_local: [usize; 2],
    /// Problems of objects, by class.
    pub(crate) problems: BTreeMap<&'static str, usize>,
    /// Why the node cannot be used.
    pub(crate) unmet: Vec<String>,
    /// Whether this node's object is there, and not about to go.
    pub(crate) is_eligible: bool,
}

impl Pulse {
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            beat: AtomicU64::new(0),
            phases: [(); PHASES.len()].map(|()| Histogram::new(PHASE_BUCKETS)),
            programming: [(); KINDREDS.len()].map(|()| Histogram::new(PROGRAMMING_BUCKETS)),
            written: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            errors: Mutex::default(),
            queues: OnceLock::new(),
            last: Mutex::default(),
        }
    }

    /// The loop takes up work, or looks whether there is any.
    pub(crate) fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_millis();
        self.beat.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    /// When the loop last did.
    pub(crate) fn last_beat(&self) -> Instant {
        self.origin + Duration::from_millis(self.beat.load(Relaxed))
    }

    pub(crate) fn took(&self, phase: Phase, time: Duration) {
        self.phases[phase as usize].observe(time.as_secs_f64());
    }

    pub(crate) fn phases(&self) -> impl Iterator<Item = ([&'static str; 1], &Histogram)> {
        PHASES.into_iter().map(|name| [name]).zip(&self.phases)
    }

    /// A change is in the maps.
    pub(crate) fn programmed(&self, kindred: Kindred, latency: Duration) {
        self.programming[kindred as usize].observe(latency.as_secs_f64());
    }

    pub(crate) fn programming(&self) -> impl Iterator<Item = ([&'static str; 1], &Histogram)> {
        KINDREDS.into_iter().map(|name| [name]).zip(&self.programming)
    }

    /// Entries of maps were written and deleted.
    pub(crate) fn wrote(&self, written: u64, deleted: u64) {
        self.written.fetch_add(written, Relaxed);
        self.deleted.fetch_add(deleted, Relaxed);
    }

    pub(crate) fn writes(&self) -> [u64; 2] {
        [&self.written, &self.deleted].map(|count| count.load(Relaxed))
    }

    /// The kernel refused a write to a map.
    pub(crate) fn refused(&self, map: &str, errno: &str) {
        let mut errors = self.errors();
        let pair = (map.to_owned(), errno.to_owned());
        let is_one_of_many = errors.len() >= MAX_ERRORS && !errors.contains_key(&pair);
        let pair = if is_one_of_many { ("other".to_owned(), "other".to_owned()) } else { pair };
        *errors.entry(pair).or_default() += 1;
    }

    /// Refused writes by map and error.
    pub(crate) fn errors(&self) -> MutexGuard<'_, BTreeMap<(String, String), u64>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the loop's work waits.
    pub(crate) fn watch_queues(&self, source: WeakSender<Event>, cni: WeakSender<CniEvent>) {
        // Once: there is one loop.
        let _known = self.queues.set((source, cni));
    }

    /// What waits for the loop, by who sends it.
    pub(crate) fn queues(&self) -> impl Iterator<Item = ([&'static str; 1], usize)> {
        let lengths = self.queues.get().map(|(source, cni)| [length(source), length(cni)]);
        [["source"], ["cni"]].into_iter().zip(lengths.unwrap_or_default())
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(snapshot));
    }

    /// What the loop came to; none before its first pass.
    pub(crate) fn last(&self) -> Option<Arc<Snapshot>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn length<T>(queue: &WeakSender<T>) -> usize {
    queue.upgrade().map_or(0, |queue| queue.max_capacity() - queue.capacity())
}

#[cfg(test)]
mod tests {
    use agent_sources::source::Batch;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn the_length_of_a_queue_is_what_waits_in_it() {
        let pulse = Pulse::new(Instant::now());
        assert_eq!(pulse.queues().map(|(_, length)| length).collect::<Vec<_>>(), [0, 0]);
        let (source, mut events) = mpsc::channel(4);
        let (cni, _requests) = mpsc::channel(4);
        pulse.watch_queues(source.downgrade(), cni.downgrade());
        let event = || Event { seen: Instant::now(), batch: Batch::default() };
        source.try_send(event()).unwrap();
        source.try_send(event()).unwrap();
        assert_eq!(pulse.queues().collect::<Vec<_>>(), [(["source"], 2), (["cni"], 0)]);
        events.try_recv().unwrap();
        assert_eq!(pulse.queues().next(), Some((["source"], 1)));
        drop((source, cni));
        assert!(events.try_recv().is_ok());
        assert!(
            matches!(events.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)),
            "nobody holds it open"
        );
    }

    #[test]
    fn errors_of_any_kind_make_a_bounded_number_of_series() {
        let pulse = Pulse::new(Instant::now());
        for number in 0..100 {
            pulse.refused("POLICIES", &format!("E{number}"));
            pulse.refused("POLICIES", "E0");
        }
        let errors = pulse.errors();
        assert_eq!(errors.len(), MAX_ERRORS + 1);
        assert_eq!(errors[&("POLICIES".to_owned(), "E0".to_owned())], 101);
        assert_eq!(errors[&("other".to_owned(), "other".to_owned())], 84);
    }

    #[test]
    fn a_beat_is_remembered_to_the_millisecond() {
        let origin = Instant::now();
        let pulse = Pulse::new(origin);
        assert_eq!(pulse.last_beat(), origin);
        pulse.beat(origin + Duration::from_millis(1234));
        assert_eq!(pulse.last_beat(), origin + Duration::from_millis(1234));
    }
}
