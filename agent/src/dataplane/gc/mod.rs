//! Garbage collection of conntrack: expiry a bit at a time, and at once what a removed pod or backend leaves behind.
//!
//! It runs on a thread of its own and knows nothing but the pinned maps, so it is right after any restart.
mod backends;
mod clock;
mod expiry;
mod flow;
mod mark;
mod shares;
mod sockets;
mod sweep;

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) use self::mark::Marker;
use self::{
    clock::{Clock, ClockError},
    shares::Refused,
    sockets::Pruning,
    sweep::{Sweep, Swept},
};
use super::maps::Maps;
use crate::{
    health::Problems,
    net::sockets::{Connected, SocketsError, destroy},
    telemetry::chain,
    vitals::Vitals,
};

/// Time between two portions of expiry.
const TICK: Duration = Duration::from_secs(1);
/// Entries per portion: a million entries pass in half a minute, the shortest time that a flow lives.
const PORTION: usize = 32_768;
/// Rest after a whole sweep, at most, so that a busy cluster does not keep a CPU busy.
const MAX_REST: Duration = Duration::from_millis(250);

/// Pods that one sentence names.
const MAX_NAMED: usize = 4;

/// What its problems are filed under.
const SUBJECT: &str = "conntrack";
/// The same, of pods that want more established flows than they may have.
const SHARES: &str = "conntrack shares";

/// What the collector shall do out of turn.
enum Order {
    /// Frontends changed: look for flows and sockets of backends that are gone.
    ServicesChanged,
    /// Pods are gone: delete every flow of these addresses.
    Removed(Vec<IpAddr>),
}

/// The running collector. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Collector(mpsc::Sender<Order>);

impl Collector {
    /// Starts the thread. `clock` is the program of that name.
    pub(crate) fn start(
        maps: Arc<Maps>,
        clock: OwnedFd,
        marker: Marker,
        problems: Problems,
        vitals: Arc<Vitals>,
    ) -> io::Result<Self> {
        let (sender, orders) = mpsc::channel();
        thread::Builder::new().name("conntrack-gc".to_owned()).spawn(move || {
            let (clock, sweep, waiting) = (Clock::new(clock), Sweep::default(), Waiting::default());
            let pruning = Pruning::default();
            Worker { maps, clock, marker, problems, vitals, sweep, pruning, waiting }.run(&orders);
        })?;
        Ok(Self(sender))
    }

    pub(crate) fn services_changed(&self) {
        self.order(Order::ServicesChanged);
    }

    pub(crate) fn removed(&self, addresses: Vec<IpAddr>) {
        self.order(Order::Removed(addresses));
    }

    fn order(&self, order: Order) {
        // The thread lives as long as this sender.
        let _alive = self.0.send(order);
    }
}

/// Orders that are not carried out yet: one whose sweep fails waits for the next.
#[derive(Debug, Default)]
struct Waiting {
    services_changed: bool,
    removed: HashSet<IpAddr>,
}

impl Waiting {
    fn add(&mut self, order: Order) {
        match order {
            Order::ServicesChanged => self.services_changed = true,
            Order::Removed(addresses) => self.removed.extend(addresses),
        }
    }

    fn is_empty(&self) -> bool {
        !self.services_changed && self.removed.is_empty()
    }
}

/// Why a portion was not finished. The next one tries again.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Map(#[from] bpf_maps::Error),
    #[error(transparent)]
    Clock(#[from] ClockError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
}

struct Worker {
    maps: Arc<Maps>,
    clock: Clock,
    marker: Marker,
    problems: Problems,
    vitals: Arc<Vitals>,
    sweep: Sweep,
    pruning: Pruning,
    waiting: Waiting,
}

impl Worker {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            match orders.recv_timeout(TICK) {
                Ok(order) => {
                    self.waiting.add(order);
                    for order in orders.try_iter() {
                        self.waiting.add(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let result = if self.waiting.is_empty() { self.sweep_portion() } else { self.sweep_all() };
            match result {
                Ok(()) => self.problems.resolve(SUBJECT),
                Err(error) => {
                    self.vitals.sweeps.failed();
                    let sentence = format!("flows do not expire: {}; trying again", chain(&error));
                    self.problems.report(SUBJECT, &sentence);
                }
            }
        }
    }

    fn sweep_portion(&mut self) -> Result<(), SweepError> {
        let start = Instant::now();
        self.pruning.advance(&self.maps)?;
        let mut swept = Swept::default();
        let is_through = self.sweep.advance(
            &self.maps,
            &self.marker,
            self.clock.now()?,
            &HashSet::new(),
            PORTION,
            &mut swept,
        )?;
        self.note(&swept, is_through, start.elapsed());
        self.report_refused(&mut swept);
        if swept.deleted > 0 {
            tracing::debug!("conntrack: {} of {} entries expired", swept.deleted, swept.seen);
        }
        Ok(())
    }

    /// One look at everything, for all orders that wait.
    fn sweep_all(&mut self) -> Result<(), SweepError> {
        let start = Instant::now();
        let sockets = self.free_sockets();
        let mut swept = Swept::default();
        self.sweep.restart();
        while !self.sweep.advance(
            &self.maps,
            &self.marker,
            self.clock.now()?,
            &self.waiting.removed,
            PORTION,
            &mut swept,
        )? {}
        self.waiting = Waiting::default();
        let took = start.elapsed();
        self.note(&swept, true, took);
        self.report_refused(&mut swept);
        if swept.deleted + swept.marked > 0 {
            let Swept { seen, deleted, marked, .. } = swept;
            tracing::debug!(
                "conntrack: of {seen} entries {deleted} deleted, {marked} lost their backend, in {took:?}"
            );
        }
        thread::sleep(took.min(MAX_REST));
        sockets
    }

    fn note(&self, swept: &Swept, is_through: bool, took: Duration) {
        let sweeps = &self.vitals.sweeps;
        sweeps.portion(took, swept.deleted);
        swept.counted.iter().for_each(|(map, entries)| sweeps.counted(*map, *entries));
        if is_through {
            sweeps.finished();
        }
        if let Some(refused) = &swept.refused {
            let sum = |of: fn(&Refused) -> u32| refused.iter().map(|pod| u64::from(of(pod))).sum();
            sweeps.shares(refused.len(), sum(|pod| pod.flows), sum(|pod| pod.evicted));
        }
    }

    /// Says which pods were refused established flows during the last sweep.
    fn report_refused(&self, swept: &mut Swept) {
        match swept.refused.take() {
            None => {}
            Some(refused) if refused.is_empty() => self.problems.resolve(SHARES),
            Some(refused) => {
                let pods: Vec<_> = refused.iter().take(MAX_NAMED).map(Refused::sentence).collect();
                let more = refused.len().saturating_sub(MAX_NAMED);
                let more = if more > 0 { format!("; and {more} more pods") } else { String::new() };
                self.problems.report(SHARES, &format!("{}{more}", pods.join("; ")));
            }
        }
    }

    /// Destroys the sockets of the host whose other end is gone: their processes learn at the next call that they must
    /// connect again.
    fn free_sockets(&self) -> Result<(), SweepError> {
        let Waiting { services_changed, removed } = &self.waiting;
        let of_services = if *services_changed {
            sockets::stranded(&self.maps).and_then(|gone| free(&gone))
        } else {
            Ok(())
        };
        let of_pods = if removed.is_empty() {
            Ok(())
        } else {
            sockets::orphaned(&self.maps, removed).and_then(|gone| free(&gone))
        };
        of_services.and(of_pods)
    }
}

fn free(sockets: &[Connected]) -> Result<(), SweepError> {
    if sockets.is_empty() {
        return Ok(());
    }
    let destroyed = destroy(sockets)?;
    if destroyed.count > 0 {
        tracing::info!("destroyed {} sockets of this host whose other end is gone", destroyed.count);
    }
    destroyed.errors.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
}
