//! What the measuring process and its clients say to each other: one line of JSON each way.
use std::{net::SocketAddrV4, time::Duration};

use serde::{Deserialize, Serialize};

use crate::measure::statistics::percentile;

/// The first byte of a connection says what the client wants of it. Every answer is the server's number.
pub(crate) mod ask {
    /// Many requests, one after the other.
    pub(crate) const KEEP: u8 = b'K';
    /// One request; the server closes.
    pub(crate) const ONCE: u8 = b'O';
    /// HTTP, for load generators that speak it.
    pub(crate) const HTTP: u8 = b'G';
}

/// Where a client connects to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Targets {
    /// Uniformly random over consecutive addresses.
    Range {
        first: SocketAddrV4,
        count: u32,
    },
    One(SocketAddrV4),
}

/// What a client shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub(crate) enum Order {
    /// Requests over one TCP connection, which stays open between slices.
    RoundTrips { target: SocketAddrV4, lasting: Duration },
    /// Closes the connections that are open.
    Part,
    /// Connect, request, wait for the server to close.
    Connections { targets: Targets, lasting: Duration },
    /// Connects until the server of this number answers. Pauses after each attempt, so that whoever makes the change
    /// has the CPUs.
    Follow { target: SocketAddrV4, server: u8, pause: Duration, patience: Duration },
    /// Datagrams, one after the other, until one is answered.
    Knock { target: SocketAddrV4, patience: Duration },
    /// Datagrams, one after the other, until they are not answered any more.
    KnockUntilSilent { target: SocketAddrV4, patience: Duration },
}

/// What a client has to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    Slice(Box<Slice>),
    /// The first attempt that obeyed a change: its start by the monotonic clock, in nanoseconds.
    Obeyed {
        at: u64,
        attempts: u64,
    },
    Parted,
    Failed(String),
}

/// A slice of load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(crate) seconds: f64,
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Requests that were not.
    pub(crate) failed: u64,
    /// The first failure.
    pub(crate) failure: Option<String>,
    /// Of whole operations.
    pub(crate) latency: Latency,
    /// Of connecting alone, when that is part of an operation.
    pub(crate) connect: Option<Latency>,
}

impl Slice {
    #[expect(clippy::cast_precision_loss, reason = "operations of seconds")]
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

/// Percentiles of raw samples, in nanoseconds, and the samples' histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u32,
    pub(crate) p90: u32,
    pub(crate) p99: u32,
    pub(crate) p999: u32,
    pub(crate) most: u32,
    /// Upper bound of each bucket that has samples, and their number.
    pub(crate) histogram: Vec<(u32, u32)>,
}

impl Latency {
    pub(crate) fn of(mut samples: Vec<u32>) -> Self {
        samples.sort_unstable();
        let at = |percent| percentile(&samples, percent).unwrap_or_default();
        let mut histogram: Vec<(u32, u32)> = Vec::new();
        for sample in &samples {
            let bound = bucket(*sample);
            match histogram.last_mut() {
                Some((last, count)) if *last == bound => *count += 1,
                _ => histogram.push((bound, 1)),
            }
        }
        Self {
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            most: samples.last().copied().unwrap_or_default(),
            histogram,
        }
    }
}

/// The upper bound of a sample's bucket: 16 buckets for each doubling.
fn bucket(sample: u32) -> u32 {
    let shift = sample.max(16).ilog2() - 4;
    (((sample >> shift) + 1) << shift).saturating_sub(1).max(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        let mut last = 0;
        for sample in (0..100_000).chain([u32::MAX - 1, u32::MAX]) {
            let bound = bucket(sample);
            assert!(bound >= sample && bound >= last, "{sample} {bound} {last}");
            assert!(u64::from(bound) <= u64::from(sample) + u64::from(sample) / 16 + 1, "{sample} {bound}");
            last = bound;
        }
    }

    #[test]
    fn every_sample_is_in_the_histogram() {
        let latency = Latency::of((1..=10_000).collect());
        assert_eq!((latency.p50, latency.p99, latency.most), (5_000, 9_900, 10_000));
        assert_eq!(latency.histogram.iter().map(|(_, count)| count).sum::<u32>(), 10_000);
    }
}
