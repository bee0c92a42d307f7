//! What the agent did, in numbers.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Changes whose latency is remembered.
const REMEMBERED: usize = 1024;

/// Counts since the start.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) started: Instant,
    /// Map entries written.
    pub(crate) written: u64,
    /// Map entries deleted.
    pub(crate) deleted: u64,
    /// Number of the cluster state that is in the maps.
    pub(crate) revision: u64,
    latencies: VecDeque<Duration>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), written: 0, deleted: 0, revision: 0, latencies: VecDeque::new() }
    }

    /// Notes how long a change took from the source to the maps.
    pub(crate) fn programmed(&mut self, latency: Duration) {
        self.latencies.truncate(REMEMBERED - 1);
        self.latencies.push_front(latency);
    }

    /// Microseconds of the last changes: median, 99th percentile, largest.
    pub(crate) fn programming_us(&self) -> [u64; 3] {
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        [50, 99, 100].map(|percent| {
            let latency = sorted.get(rank(percent)).copied().unwrap_or_default();
            u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_remembered_changes() {
        let mut report = Report::new();
        assert_eq!(report.programming_us(), [0, 0, 0]);
        report.programmed(Duration::from_millis(7));
        assert_eq!(report.programming_us(), [7_000; 3]);
        for latency in 1..=200 {
            report.programmed(Duration::from_micros(latency));
        }
        assert_eq!(report.programming_us(), [101, 199, 7_000]);
        for _ in 0..REMEMBERED {
            report.programmed(Duration::from_micros(3));
        }
        assert_eq!(report.programming_us(), [3; 3], "older changes are forgotten");
    }
}
