//! The clock of conntrack entries: jiffies, whose rate depends on how the kernel was built.
use std::{
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// The rates that a kernel can be built with (`CONFIG_HZ`).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// Long enough to tell 250 from 300 although a sample may be a jiffy late.
const CALIBRATION: Duration = Duration::from_millis(200);

/// The program reads at the start of its packet; the rest is there because a test run wants an Ethernet frame.
const FRAME: [u8; 64] = [0; 64];

/// Why the clock cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClockError {
    #[error(transparent)]
    Run(#[from] bpf_maps::Error),
    #[error("the program `clock` left {found} bytes of its packet")]
    Short { found: usize },
    #[error("{jiffies} jiffies passed in {elapsed:?}, which is no rate that Linux has")]
    Rate { jiffies: u64, elapsed: Duration },
}

/// Reads jiffies through a program that is never attached.
#[derive(Debug)]
pub(super) struct Clock {
    program: OwnedFd,
    rate: u32,
}

impl Clock {
    /// Finds the rate out, which takes a moment.
    pub(super) fn calibrate(program: OwnedFd) -> Result<Self, ClockError> {
        let (start, first) = (Instant::now(), sample(&program)?);
        thread::sleep(CALIBRATION);
        let (elapsed, second) = (start.elapsed(), sample(&program)?);
        let jiffies = second.wrapping_sub(first);
        let rate = rate_of(jiffies, elapsed).ok_or(ClockError::Rate { jiffies, elapsed })?;
        Ok(Self { program, rate })
    }

    /// Jiffies now.
    pub(super) fn now(&self) -> Result<Jiffies, ClockError> {
        Ok(Jiffies { count: sample(&self.program)?, rate: self.rate })
    }
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jiffies {
    count: u64,
    rate: u32,
}

impl Jiffies {
    /// The time since an entry's `last_seen`; nothing when a packet was faster than this look at the clock.
    pub(super) fn since(self, last_seen: u64) -> Duration {
        let passed = self.count.saturating_sub(last_seen);
        Duration::from_millis(passed.saturating_mul(1000) / u64::from(self.rate))
    }
}

fn sample(program: &OwnedFd) -> Result<u64, ClockError> {
    let frame = bpf_maps::program::test_run(program.as_fd(), &FRAME, &[], 1)?.data;
    let jiffies = frame.first_chunk().ok_or(ClockError::Short { found: frame.len() })?;
    Ok(u64::from_ne_bytes(*jiffies))
}

/// The possible rate that is nearest to what was measured, if it is near.
fn rate_of(jiffies: u64, elapsed: Duration) -> Option<u32> {
    let measured = u32::try_from(u128::from(jiffies) * 1_000_000 / elapsed.as_micros().max(1)).ok()?;
    let nearest = RATES.into_iter().min_by_key(|rate| rate.abs_diff(measured))?;
    (nearest.abs_diff(measured) * 4 <= nearest).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rate_is_recognised_a_jiffy_off_and_late() {
        for rate in RATES {
            for late in [0, 3] {
                let elapsed = CALIBRATION + Duration::from_millis(late);
                let exact = u64::from(rate) * 203 / 1000;
                for jiffies in exact - 1..=exact + 1 {
                    assert_eq!(rate_of(jiffies, elapsed), Some(rate), "{jiffies} in {elapsed:?}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_stands_or_races_is_not_believed() {
        assert_eq!(rate_of(0, CALIBRATION), None);
        assert_eq!(rate_of(1_000_000, CALIBRATION), None);
    }

    #[test]
    fn time_since_is_in_the_rate_of_the_kernel() {
        let now = Jiffies { count: 1_000, rate: 250 };
        assert_eq!(now.since(500), Duration::from_secs(2));
        assert_eq!(now.since(1_001), Duration::ZERO);
    }
}
