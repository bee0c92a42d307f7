//! What kube-proxy would note in the agent's place: since when changes of services wait, and when the last ones were in the
//! maps. Its rules are those of `pkg/proxy/healthcheck/proxy_health.go`.
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use agent_core::model::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::{FAMILIES, Moment};

/// A change that waits for so long is late: twice kube-proxy's sync period.
const LATE: Duration = Duration::from_mins(1);

/// A family's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    /// When the maps last held all that was seen.
    updated: Option<Moment>,
    /// When the oldest change was seen that they do not hold.
    pending: Option<Moment>,
    /// When any was last seen.
    queued: Option<Moment>,
}

/// The state of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue([Changes; 2]);

/// The health of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyReport {
    pub(crate) updated: SystemTime,
    pub(crate) is_healthy: bool,
}

/// What the health port tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyReport {
    pub(crate) is_healthy: bool,
    pub(crate) updated: Option<SystemTime>,
    /// Only families that were ever in the maps.
    pub(crate) families: BTreeMap<Family, FamilyReport>,
}

impl Queue {
    /// A change was seen.
    fn queued(&mut self, now: Moment) {
        for changes in &mut self.0 {
            changes.queued = Some(now);
            changes.pending.get_or_insert(now);
        }
    }

    /// The maps hold everything.
    fn updated(&mut self, now: Moment) {
        for changes in &mut self.0 {
            changes.updated = Some(now);
            changes.pending = None;
        }
    }

    /// A loop whose last beat is `beat` has seen nothing since: what waits for it is as old at most, and is taken to be
    /// there.
    fn report(&self, now: Moment, beat: Instant) -> ProxyReport {
        let is_stuck = now.steady.saturating_duration_since(beat) >= LATE;
        let families: BTreeMap<Family, FamilyReport> = FAMILIES
            .into_iter()
            .zip(&self.0)
            .filter_map(|(family, changes)| {
                let is_late = changes
                    .pending
                    .is_some_and(|since| now.steady.saturating_duration_since(since.steady) >= LATE);
                let updated = changes.updated?.wall;
                Some((family, FamilyReport { updated, is_healthy: !is_late && !is_stuck }))
            })
            .collect();
        ProxyReport {
            is_healthy: !is_stuck && families.values().all(|family| family.is_healthy),
            updated: families.values().map(|family| family.updated).max(),
            families,
        }
    }
}

/// What the parts note.
#[derive(Debug)]
pub(crate) struct Proxy {
    queue: Mutex<Queue>,
    pub(crate) sync: [Histogram; 2],
    pub(crate) network_programming: [Histogram; 2],
    /// Changes of Services and of EndpointSlices that were seen, and those of them that the maps hold.
    seen: [AtomicU64; 2],
    held: [AtomicU64; 2],
    /// Answers of `/healthz` and of `/livez`: 200, 503.
    answers: [[AtomicU64; 2]; 2],
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            // kube-proxy's own buckets, so that its queries mean the same.
            sync: [(); 2].map(|()| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            network_programming: [(); 2].map(|()| Histogram::new(network_programming_buckets())),
            seen: Default::default(),
            held: Default::default(),
            answers: Default::default(),
        }
    }
}

fn network_programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

impl Proxy {
    /// Changes of Services and of EndpointSlices were seen.
    pub(crate) fn queued(&self, services: u64, slices: u64, now: Moment) {
        if services + slices > 0 {
            self.seen[0].fetch_add(services, Relaxed);
            self.seen[1].fetch_add(slices, Relaxed);
            self.queue().queued(now);
        }
    }

    /// The maps hold all that was seen.
    pub(crate) fn updated(&self, now: Moment) {
        for (held, seen) in self.held.iter().zip(&self.seen) {
            held.store(seen.load(Relaxed), Relaxed);
        }
        self.queue().updated(now);
    }

    pub(crate) fn report(&self, now: Moment, beat: Instant) -> ProxyReport {
        self.queue().report(now, beat)
    }

    /// Changes that were seen, and those that are not in the maps: of Services, of EndpointSlices.
    pub(crate) fn changes(&self) -> [(u64, u64); 2] {
        [0, 1].map(|index| {
            let held = self.held[index].load(Relaxed);
            let seen = self.seen[index].load(Relaxed);
            (seen, seen.saturating_sub(held))
        })
    }

    /// When the maps last held everything, and when a change was last seen, for each family that knows.
    pub(crate) fn times(&self) -> [[Option<SystemTime>; 2]; 2] {
        self.queue().0.map(|changes| [changes.updated, changes.queued].map(|at| Some(at?.wall)))
    }

    /// Notes an answer of `/livez`, or of `/healthz`.
    pub(crate) fn answered(&self, is_livez: bool, is_healthy: bool) {
        self.answers[usize::from(is_livez)][usize::from(!is_healthy)].fetch_add(1, Relaxed);
    }

    pub(crate) fn answers(&self, is_livez: bool) -> impl Iterator<Item = ([&'static str; 1], u64)> {
        let counts = &self.answers[usize::from(is_livez)];
        [["200"], ["503"]].into_iter().zip(counts.iter().map(|count| count.load(Relaxed)))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(base: Moment, seconds: u32) -> Moment {
        let since = SECOND * seconds;
        Moment { steady: base.steady + since, wall: base.wall + since }
    }

    fn is_healthy(queue: &Queue, now: Moment) -> bool {
        queue.report(now, now.steady).is_healthy
    }

    #[test]
    fn a_proxy_that_starts_or_has_nothing_to_do_is_healthy() {
        let base = Moment::now();
        let mut queue = Queue::default();
        assert!(is_healthy(&queue, at(base, 1000)));
        assert_eq!(queue.report(base, base.steady).families, BTreeMap::new());
        queue.queued(base);
        assert!(is_healthy(&queue, at(base, 1000)), "no family has ever been programmed: it starts");
        queue.updated(at(base, 1000));
        assert!(is_healthy(&queue, at(base, 9000)));
    }

    #[test]
    fn the_oldest_change_that_waits_decides() {
        let base = Moment::now();
        let mut queue = Queue::default();
        queue.updated(base);
        queue.queued(at(base, 10));
        queue.queued(at(base, 60));
        assert!(is_healthy(&queue, at(base, 69)));
        let report = queue.report(at(base, 70), at(base, 70).steady);
        assert!(!report.is_healthy);
        let late = FamilyReport { updated: base.wall, is_healthy: false };
        assert_eq!(report.families, FAMILIES.into_iter().map(|family| (family, late)).collect());
        assert_eq!(report.updated, Some(base.wall));
        queue.updated(at(base, 71));
        assert!(is_healthy(&queue, at(base, 71)));
        queue.queued(at(base, 100));
        assert!(is_healthy(&queue, at(base, 159)), "what was waiting before is forgotten");
    }

    #[test]
    fn a_loop_that_is_stuck_is_unhealthy_though_it_has_seen_nothing() {
        let base = Moment::now();
        let mut queue = Queue::default();
        queue.updated(base);
        assert!(queue.report(at(base, 59), base.steady).is_healthy);
        let report = queue.report(at(base, 60), base.steady);
        assert!(!report.is_healthy && report.families.values().all(|family| !family.is_healthy));
        assert!(!Queue::default().report(at(base, 60), base.steady).is_healthy);
    }

    #[test]
    fn a_wall_clock_that_jumps_changes_nothing() {
        let base = Moment::now();
        let mut queue = Queue::default();
        queue.updated(base);
        queue.queued(base);
        let jumped = Moment { steady: base.steady + SECOND, wall: base.wall + SECOND * 100_000 };
        assert!(is_healthy(&queue, jumped));
    }

    #[test]
    fn changes_wait_until_the_maps_hold_them() {
        let proxy = Proxy::default();
        proxy.queued(2, 5, Moment::now());
        assert_eq!(proxy.changes(), [(2, 2), (5, 5)]);
        proxy.updated(Moment::now());
        proxy.queued(0, 1, Moment::now());
        assert_eq!(proxy.changes(), [(2, 0), (6, 1)]);
    }

    #[test]
    fn the_buckets_are_kube_proxys() {
        let buckets: Vec<f64> = network_programming_buckets().collect();
        assert_eq!(buckets.len(), 2 + 59 + 12 + 7);
        assert_eq!(buckets[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(buckets[buckets.len() - 2..], [270.0, 300.0]);
        assert!(buckets.is_sorted());
    }
}
