//! What the server of the agent's socket notes.
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use agent_api::{ErrorKind, Request};
use prometheus_client::metrics::histogram::Histogram;

/// Seconds: an address is a write to memory, an attachment some milliseconds, and ADD gives up after twenty seconds.
const BUCKETS: [f64; 6] = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0];

/// What is asked. The first three are ADD and DEL, whose time matters.
const NAMES: [&str; 8] = ["reserve", "attach", "detach", "status", "health", "applied", "names", "check"];
const TIMED: usize = 3;

/// How it ended.
const CODES: [&str; 5] = ["ok", "try_again", "invalid", "internal", "incompatible"];

/// Requests on the agent's socket.
#[derive(Debug)]
pub(crate) struct Requests {
    ended: [[AtomicU64; CODES.len()]; NAMES.len()],
    took: [Histogram; TIMED],
}

impl Default for Requests {
    fn default() -> Self {
        Self { ended: Default::default(), took: [(); TIMED].map(|()| Histogram::new(BUCKETS)) }
    }
}

/// A number for what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked(usize);

impl Asked {
    pub(crate) const fn of(request: &Request) -> Self {
        Self(match request {
            Request::Reserve { .. } => 0,
            Request::Attach { .. } => 1,
            Request::Detach { .. } => 2,
            Request::Status => 3,
            Request::Health => 4,
            Request::Applied => 5,
            Request::Names => 6,
            Request::Check { .. } => 7,
        })
    }
}

impl Requests {
    /// Notes that a request was answered.
    pub(crate) fn ended(&self, Asked(asked): Asked, error: Option<ErrorKind>, took: Duration) {
        let code = match error {
            None => 0,
            Some(ErrorKind::TryAgain) => 1,
            Some(ErrorKind::Invalid) => 2,
            Some(ErrorKind::Internal) => 3,
            Some(ErrorKind::Incompatible) => 4,
        };
        self.ended[asked][code].fetch_add(1, Relaxed);
        if let Some(histogram) = self.took.get(asked) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// What was asked, how it ended, how often. ADD and DEL that succeed are there from the start.
    pub(crate) fn counts(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        NAMES.iter().enumerate().flat_map(move |(asked, name)| {
            CODES.iter().enumerate().filter_map(move |(code, label)| {
                let count = self.ended[asked][code].load(Relaxed);
                (count > 0 || (asked < TIMED && code == 0)).then_some(([*name, *label], count))
            })
        })
    }

    pub(crate) fn durations(&self) -> impl Iterator<Item = ([&'static str; 1], &Histogram)> {
        NAMES.iter().map(|name| [*name]).zip(&self.took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_was_asked_and_how_it_ended() {
        let requests = Requests::default();
        requests.ended(Asked::of(&Request::Status), None, Duration::ZERO);
        requests.ended(Asked(1), Some(ErrorKind::TryAgain), Duration::from_secs(20));
        let counts: Vec<_> = requests.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(["attach", "try_again"], 1), (["status", "ok"], 1)]);
        let took: Vec<u64> = requests.durations().map(|(_, of)| crate::vitals::count(of)).collect();
        assert_eq!(took, [0, 1, 0]);
    }
}
