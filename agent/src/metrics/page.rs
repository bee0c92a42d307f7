//! The page of the agent's metrics: what was noted, and what the maps hold.
use std::{
    fmt,
    iter::once,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use agent_core::update::Kind;
use agent_metrics as table;
use agent_sources::{convert::kind_name, pulse::Seen};
use dataplane_common::verdict::{DropReason, Hook, Outcome, drop_slot, outcome_slot};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    process::{self, Process},
    writer::Writer,
};
use crate::{
    dataplane::Readings,
    health::Problems,
    vitals::{FAMILIES, Snapshot, Vitals},
};

/// What the page is made of.
#[derive(Clone, Debug)]
pub(super) struct AgentPage {
    vitals: Arc<Vitals>,
    readings: Readings,
    problems: Problems,
    started: SystemTime,
    kernel: String,
    scrapes: Arc<Scrapes>,
}

/// Pages that were written.
#[derive(Debug, Default)]
struct Scrapes {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl AgentPage {
    pub(super) fn new(vitals: Arc<Vitals>, readings: Readings, problems: Problems) -> Self {
        let (started, kernel) = (SystemTime::now(), process::kernel());
        Self { vitals, readings, problems, started, kernel, scrapes: Arc::default() }
    }

    /// Notes what a page took.
    pub(super) fn scraped(&self, took: Duration) {
        self.scrapes.count.fetch_add(1, Relaxed);
        self.scrapes.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn process(&self, to: &mut Writer<'_>) -> fmt::Result {
        let process = Process::read();
        to.gauge(&table::BUILD_INFO, once(([env!("CARGO_PKG_VERSION"), &self.kernel], 1_u64)))?;
        to.counter(&table::PROCESS_CPU, once(([], process.cpu.as_secs_f64())))?;
        to.gauge(&table::PROCESS_MEMORY, once(([], process.resident)))?;
        to.gauge(&table::PROCESS_START, once(([], process::unix(self.started))))?;
        to.gauge(&table::PROCESS_FDS, once(([], process.descriptors)))?;
        to.counter(&table::SCRAPES, once(([], self.scrapes.count.load(Relaxed))))?;
        let took = Duration::from_nanos(self.scrapes.nanoseconds.load(Relaxed));
        to.counter(&table::SCRAPE_SECONDS, once(([], took.as_secs_f64())))
    }

    fn reconciler(&self, to: &mut Writer<'_>, last: &Snapshot) -> fmt::Result {
        let pulse = &self.vitals.pulse;
        to.gauge(&table::HEARTBEAT_AGE, once(([], pulse.last_beat().elapsed().as_secs_f64())))?;
        to.histogram(&table::LOOP_PHASE, pulse.phases())?;
        to.gauge(&table::LOOP_QUEUE, pulse.queues())?;
        let kinds = || Kind::ALL.into_iter().map(|kind| [kind_name(kind)]);
        to.gauge(&table::SYNCED, kinds().zip(last.synced.map(u64::from)))?;
        to.gauge(&table::OBJECTS, kinds().zip(last.objects))?;
        self.watches(to)?;
        to.histogram(&table::PROGRAMMING, pulse.programming())?;
        let [written, deleted] = pulse.writes();
        to.counter(&table::MAP_WRITES, once(([], written)))?;
        to.counter(&table::MAP_DELETES, once(([], deleted)))?;
        let errors = pulse.errors().clone();
        let errors = errors.iter().map(|((map, errno), count)| ([map.as_str(), errno.as_str()], *count));
        to.counter(&table::MAP_WRITE_ERRORS, errors)
    }

    fn watches(&self, to: &mut Writer<'_>) -> fmt::Result {
        let seen: Vec<Seen> = self.vitals.watches.seen().collect();
        let label = |seen: &Seen| [kind_name(seen.kind)];
        to.gauge(&table::WATCH_FAILING, seen.iter().map(|seen| (label(seen), u64::from(seen.is_failing))))?;
        let age = |seen: &Seen| seen.heard.elapsed().as_secs_f64();
        to.gauge(&table::WATCH_AGE, seen.iter().map(|seen| (label(seen), age(seen))))?;
        to.counter(&table::WATCH_ERRORS, seen.iter().map(|seen| (label(seen), seen.errors)))?;
        to.counter(&table::WATCH_LISTS, seen.iter().map(|seen| (label(seen), seen.lists)))
    }

    fn maps(&self, to: &mut Writer<'_>, last: &Snapshot) -> fmt::Result {
        let swept = self.vitals.sweeps.read();
        let flows = swept.entries.iter().map(|(map, entries)| (*map, *entries));
        let maps: Vec<_> = last.entries.iter().copied().chain(flows).collect();
        let entries = maps.iter().map(|(map, entries)| ([map.spec().name], *entries));
        to.gauge(&table::MAP_ENTRIES, entries)?;
        let capacity = maps.iter().map(|(map, _)| ([map.spec().name], self.readings.capacity(*map)));
        to.gauge(&table::MAP_CAPACITY, capacity)
    }

    fn packets(&self, to: &mut Writer<'_>, last: &Snapshot) -> fmt::Result {
        let hooks = [(["in_place"], last.hooks_in_place), (["missing"], last.hooks_missing)];
        to.gauge(&table::HOOKS, hooks)?;
        to.counter(&table::HOOK_REPAIRS, once(([], last.hook_repairs)))?;
        // Without counters the page still has the rest.
        let counters = self.readings.counters().unwrap_or_default();
        let count = |slot: u32| counters.get(slot as usize).copied();
        let packets = Hook::ALL.into_iter().flat_map(|hook| {
            Outcome::ALL.into_iter().filter_map(move |outcome| {
                let packets = count(outcome_slot(hook, outcome))?;
                // What happens to packets does not happen to sockets.
                let is_of_packets = !matches!(hook, Hook::Connect | Hook::Sendmsg);
                (packets > 0 || is_of_packets).then_some(([hook.name(), outcome.name()], packets))
            })
        });
        to.counter(&table::PACKETS, packets)?;
        let drops = Hook::ALL.into_iter().flat_map(|hook| {
            DropReason::ALL.iter().filter_map(move |&reason| {
                let packets = count(drop_slot(hook, reason)).filter(|packets| *packets > 0)?;
                Some(([hook.name(), reason.name()], packets))
            })
        });
        to.counter(&table::DROPS, drops)?;
        to.gauge(&table::FRONTENDS_WITHOUT_BACKENDS, once(([], last.frontends_without_backends)))
    }

    fn conntrack(&self, to: &mut Writer<'_>) -> fmt::Result {
        let share = self.readings.established().ok();
        let established = share.into_iter().flat_map(|counts| [["IPv4"], ["IPv6"]].into_iter().zip(counts));
        to.gauge(&table::CT_ESTABLISHED, established)?;
        let swept = self.vitals.sweeps.read();
        to.counter(&table::CT_REFUSED, once(([], swept.refused)))?;
        to.counter(&table::CT_EVICTED, once(([], swept.evicted)))?;
        to.gauge(&table::CT_OVER_SHARE, once(([], swept.over_share)))?;
        to.counter(&table::CT_DELETED, once(([], swept.deleted)))?;
        to.counter(&table::CT_SWEEPS, once(([], swept.finished)))?;
        to.counter(&table::CT_SWEEP_SECONDS, once(([], swept.took.as_secs_f64())))?;
        to.counter(&table::CT_FAILURES, once(([], swept.failed)))
    }

    fn pods(&self, to: &mut Writer<'_>, last: &Snapshot) -> fmt::Result {
        let endpoints = [
            (["attached"], last.endpoints),
            (["waiting"], last.endpoints_waiting),
            (["without_object"], last.endpoints_without_object),
            (["isolated"], last.endpoints_isolated),
        ];
        to.gauge(&table::ENDPOINTS, endpoints)?;
        to.counter(&table::CNI_REQUESTS, self.vitals.requests.counts())?;
        to.histogram(&table::CNI_DURATION, self.vitals.requests.durations())?;
        let counted = self.vitals.addresses();
        let names = FAMILIES.map(|family| family.to_string());
        let addresses = names.iter().zip(&counted.0).flat_map(|(name, family)| {
            let states = [
                ("capacity", capacity(family.capacity)),
                ("leased", f64::from(family.leased)),
                ("resting", f64::from(family.resting)),
                ("foreign", f64::from(family.foreign)),
            ];
            states.map(|(state, count)| ([name.as_str(), state], count))
        });
        to.gauge(&table::ADDRESSES, addresses)?;
        let mut problems = self.problems.by_class();
        for (class, count) in &last.problems {
            *problems.entry(*class).or_default() += *count;
        }
        to.gauge(&table::PROBLEMS, problems.into_iter().map(|(class, count)| ([class], count)))
    }
}

/// A `/64` has more addresses than a float tells apart.
#[expect(clippy::cast_precision_loss, reason = "nobody counts them one by one")]
const fn capacity(addresses: u128) -> f64 {
    addresses as f64
}

impl Collector for AgentPage {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let last = self.vitals.pulse.last().unwrap_or_default();
        let mut to = Writer(encoder);
        self.process(&mut to)?;
        self.reconciler(&mut to, &last)?;
        self.maps(&mut to, &last)?;
        self.packets(&mut to, &last)?;
        self.conntrack(&mut to)?;
        self.pods(&mut to, &last)
    }
}
