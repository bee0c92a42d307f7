//! A steady load of old and new connections, whose every failure counts.
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    connect::{Connection, outcome, probe},
    wire::{LoadPlan, LoadReport, Outcome, Target},
};

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    report: Mutex<LoadReport>,
}

impl Load {
    /// Begins a load.
    #[must_use]
    pub fn start(plan: &LoadPlan) -> Self {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for target in plan.long_lived.iter().copied() {
            let (shared, plan) = (Arc::clone(&shared), plan.clone());
            workers.push(std::thread::spawn(move || keep_asking(target, &plan, &shared)));
        }
        for target in plan.fresh.iter().copied() {
            let (shared, plan) = (Arc::clone(&shared), plan.clone());
            workers.push(std::thread::spawn(move || ask_anew(target, &plan, &shared)));
        }
        for target in plan.forbidden.iter().copied() {
            let (shared, plan) = (Arc::clone(&shared), plan.clone());
            workers.push(std::thread::spawn(move || try_forbidden(target, &plan, &shared)));
        }
        Self { shared, workers }
    }

    /// Begins a flood of datagrams.
    #[must_use]
    pub fn flood(targets: Vec<SocketAddr>, interval: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let flooding = Arc::clone(&shared);
        let workers = vec![std::thread::spawn(move || flood(&targets, interval, &flooding))];
        Self { shared, workers }
    }

    /// The counts so far.
    #[must_use]
    pub fn so_far(&self) -> LoadReport {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the load and waits for the requests under way.
    #[must_use]
    pub fn stop(self) -> LoadReport {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if worker.join().is_err() {
                self.shared.count(|report| report.tell(|| "a worker panicked".to_owned()));
            }
        }
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn running(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    fn count(&self, add: impl FnOnce(&mut LoadReport)) {
        add(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count_failure(&self, what: &str, target: Target, outcome: &Outcome) {
        self.count(|report| {
            match outcome {
                Outcome::Reset | Outcome::Refused => report.reset += 1,
                Outcome::Answered(_) | Outcome::TimedOut | Outcome::Unreachable | Outcome::Failed(_) => {
                    report.lost += 1;
                }
            }
            report.tell(|| format!("{what} to {} over {:?}: {outcome}", target.to, target.transport));
        });
    }
}

/// Requests on one connection. One that fails is counted and opened again.
fn keep_asking(target: Target, plan: &LoadPlan, shared: &Shared) {
    let mut connection = None;
    while shared.running() {
        let begun = Instant::now();
        let deadline = begun + plan.timeout;
        let answer = match &mut connection {
            Some(connection) => Connection::exchange(connection, deadline),
            None => Connection::open(target, deadline)
                .and_then(|opened| connection.insert(opened).exchange(deadline)),
        };
        let outcome = outcome(answer);
        if outcome.is_answered() {
            shared.count(|report| {
                report.answered_long_lived += 1;
                report.slowest = report.slowest.max(begun.elapsed());
            });
        } else {
            shared.count_failure("long-lived connection", target, &outcome);
            connection = None;
        }
        std::thread::sleep(plan.interval.saturating_sub(begun.elapsed()));
    }
}

/// A new connection for each request.
fn ask_anew(target: Target, plan: &LoadPlan, shared: &Shared) {
    while shared.running() {
        let begun = Instant::now();
        let outcome = probe(target, plan.timeout);
        if outcome.is_answered() {
            shared.count(|report| {
                report.answered_fresh += 1;
                report.slowest = report.slowest.max(begun.elapsed());
            });
        } else {
            shared.count_failure("new connection", target, &outcome);
        }
        std::thread::sleep(plan.interval.saturating_sub(begun.elapsed()));
    }
}

/// Short attempts, one after the other, that must all fail in silence.
fn try_forbidden(target: Target, plan: &LoadPlan, shared: &Shared) {
    const ATTEMPT: Duration = Duration::from_millis(50);
    while shared.running() {
        let begun = Instant::now();
        match probe(target, ATTEMPT) {
            Outcome::TimedOut => shared.count(|report| report.denied += 1),
            outcome @ (Outcome::Answered(_) | Outcome::Refused | Outcome::Reset) => shared.count(|report| {
                report.breaches += 1;
                report.tell(|| format!("forbidden connection to {}: {outcome}", target.to));
            }),
            outcome @ (Outcome::Unreachable | Outcome::Failed(_)) => {
                shared.count_failure("forbidden connection", target, &outcome);
            }
        }
        std::thread::sleep(plan.interval.saturating_sub(begun.elapsed()));
    }
}

/// Datagrams whether or not they can be sent: before the interface exists they cannot.
fn flood(targets: &[SocketAddr], interval: Duration, shared: &Shared) {
    let sockets = [UdpSocket::bind("0.0.0.0:0"), UdpSocket::bind("[::]:0")];
    while shared.running() {
        for target in targets {
            let [v4, v6] = &sockets;
            let Ok(socket) = (if target.is_ipv4() { v4 } else { v6 }) else { continue };
            if socket.send_to(b"first\n", target).is_ok() {
                shared.count(|report| report.flooded += 1);
            }
        }
        std::thread::sleep(interval);
    }
}
