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

/// The program writes at the start of its packet; the rest is there because a test run wants an Ethernet frame.
const FRAME: [u8; 64] = [0; 64];

/// Between two looks at the clock, more than this is no rest of the collector: this machine stood still, or the agent did.
const LEAP: Duration = Duration::from_secs(30);

/// Why the clock cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClockError {
    #[error(transparent)]
    Run(#[from] bpf_maps::Error),
    #[error("the program `clock` left {found} bytes of its packet")]
    Short { found: usize },
    #[error("{jiffies} jiffies passed in {least:?} to {most:?}, which is no rate that Linux has")]
    Rate { jiffies: u64, least: Duration, most: Duration },
    #[error("jiffies went back from {from} to {to}")]
    Backwards { from: u64, to: u64 },
}

/// Where jiffies come from.
pub(super) trait Source {
    fn read(&self) -> Result<Reading, ClockError>;
}

/// A program that is never attached.
impl Source for OwnedFd {
    fn read(&self) -> Result<Reading, ClockError> {
        let before = Instant::now();
        let frame = bpf_maps::program::test_run(self.as_fd(), &FRAME, &[], 1)?.data;
        let after = Instant::now();
        let jiffies = frame.first_chunk().ok_or(ClockError::Short { found: frame.len() })?;
        Ok(Reading { before, jiffies: u64::from_ne_bytes(*jiffies), after })
    }
}

/// Reads jiffies, and knows their rate.
#[derive(Debug)]
pub(super) struct Clock<S = OwnedFd> {
    source: S,
    /// Unknown until it was measured without doubt; each look tries again.
    rate: Option<u32>,
    last: Option<u64>,
    gap: Gap,
}

/// A time that passed at once, in which no packet could refresh its flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gap {
    from: u64,
    length: u64,
}

/// One look at jiffies, and what this process's clock said before and after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    before: Instant,
    jiffies: u64,
    after: Instant,
}

impl<S: Source> Clock<S> {
    pub(super) const fn new(source: S) -> Self {
        Self { source, rate: None, last: None, gap: Gap { from: 0, length: 0 } }
    }

    /// The present moment. The first time this finds the rate out, which takes a moment.
    pub(super) fn now(&mut self) -> Result<Jiffies, ClockError> {
        let rate = match self.rate {
            Some(rate) => rate,
            None => *self.rate.insert(self.measure()?),
        };
        let count = self.source.read()?.jiffies;
        match self.last.replace(count) {
            Some(last) if count < last => return Err(ClockError::Backwards { from: last, to: count }),
            Some(last) if count - last > LEAP.as_secs() * u64::from(rate) => {
                self.gap = Gap { from: last, length: count - last };
            }
            Some(_) | None => {}
        }
        Ok(Jiffies { count, rate, gap: self.gap })
    }

    fn measure(&self) -> Result<u32, ClockError> {
        let first = self.source.read()?;
        thread::sleep(CALIBRATION);
        rate_between(&first, &self.source.read()?)
    }
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jiffies {
    count: u64,
    rate: u32,
    gap: Gap,
}

impl Jiffies {
    /// The time since an entry's `last_seen` in which its flow could have sent; nothing when a packet was faster than this
    /// look at the clock.
    pub(super) fn since(self, last_seen: u64) -> Duration {
        let gap = if last_seen <= self.gap.from { self.gap.length } else { 0 };
        let passed = self.count.saturating_sub(last_seen).saturating_sub(gap);
        Duration::from_millis(passed.saturating_mul(1000) / u64::from(self.rate))
    }
}

/// The rate that two readings tell. A thread that waits for a CPU between its two clocks makes a jiffy longer or shorter
/// than it is: the rate is believed only if it is the same at the least and the most time that can have passed.
fn rate_between(first: &Reading, second: &Reading) -> Result<u32, ClockError> {
    let jiffies = second.jiffies.wrapping_sub(first.jiffies);
    let least = second.before.saturating_duration_since(first.after);
    let most = second.after.saturating_duration_since(first.before);
    rate_of(jiffies, least).filter(|rate| rate_of(jiffies, most) == Some(*rate)).ok_or(ClockError::Rate {
        jiffies,
        least,
        most,
    })
}

/// The possible rate that is nearest to what was measured, if it is near.
fn rate_of(jiffies: u64, elapsed: Duration) -> Option<u32> {
    let measured = u32::try_from(u128::from(jiffies) * 1_000_000 / elapsed.as_micros().max(1)).ok()?;
    let nearest = RATES.into_iter().min_by_key(|rate| rate.abs_diff(measured))?;
    (nearest.abs_diff(measured) * 4 <= nearest).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

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

    /// A clock that says what it was told, one thing at a time.
    struct Script(RefCell<VecDeque<Option<Reading>>>);

    impl Source for Script {
        fn read(&self) -> Result<Reading, ClockError> {
            self.0.borrow_mut().pop_front().flatten().ok_or(ClockError::Short { found: 0 })
        }
    }

    /// Readings at milliseconds of this process's clock; `None` fails.
    fn clock(script: impl IntoIterator<Item = Option<(u64, u64)>>) -> Clock<Script> {
        let start = Instant::now();
        let reading = |(millis, jiffies)| {
            let at = start + Duration::from_millis(millis);
            Reading { before: at, jiffies, after: at }
        };
        Clock::new(Script(RefCell::new(script.into_iter().map(|at| at.map(reading)).collect())))
    }

    #[test]
    fn a_clock_that_could_not_be_read_is_tried_again() {
        let mut clock = clock([
            None,
            Some((0, 7)),
            None,
            // It stands.
            Some((0, 7)),
            Some((200, 7)),
            Some((1000, 1000)),
            Some((1200, 1050)),
            Some((1300, 1075)),
        ]);
        for _ in 0..3 {
            assert!(clock.now().is_err());
        }
        let now = clock.now().unwrap();
        assert_eq!((now.count, now.rate), (1075, 250));
        assert!(clock.now().is_err());
        assert_eq!(clock.rate, Some(250), "a rate that was found stays");
    }

    #[test]
    fn a_measurement_that_was_interrupted_is_not_believed() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let first = |late: u64| Reading { before: at(0), jiffies: 0, after: at(late) };
        let second = |jiffies, late: u64| Reading { before: at(200), jiffies, after: at(200 + late) };
        assert_eq!(rate_between(&first(0), &second(60, 0)).unwrap(), 300);
        assert_eq!(rate_between(&first(2), &second(200, 2)).unwrap(), 1000);
        // Of 300 in a second, 60 pass in 200 ms; in 230 ms it would be 250.
        assert!(rate_between(&first(0), &second(60, 30)).is_err());
        assert!(rate_between(&first(0), &second(200, 600)).is_err());
    }

    #[test]
    fn a_clock_that_goes_back_is_said_and_used_again() {
        let mut clock = clock([1000, 900, 901].map(|jiffies| Some((0, jiffies))));
        clock.rate = Some(250);
        assert_eq!(clock.now().unwrap().count, 1000);
        assert!(matches!(clock.now(), Err(ClockError::Backwards { from: 1000, to: 900 })));
        assert_eq!(clock.now().unwrap().count, 901);
    }

    #[test]
    fn time_that_passed_at_once_is_nobodys_silence() {
        let hour = 3600 * 100;
        let mut clock = clock([1000, 1000 + hour, 1500 + hour].map(|jiffies| Some((0, jiffies))));
        clock.rate = Some(100);
        clock.now().unwrap();
        let after = clock.now().unwrap();
        assert_eq!(after.since(900), Duration::from_secs(1), "what was idle before it");
        let later = clock.now().unwrap();
        assert_eq!(later.since(900), Duration::from_secs(6), "and is still idle after it");
        assert_eq!(later.since(1000 + hour), Duration::from_secs(5), "what was seen after it");
    }

    #[test]
    fn time_since_is_in_the_rate_of_the_kernel() {
        let now = Jiffies { count: 1_000, rate: 250, gap: Gap::default() };
        assert_eq!(now.since(500), Duration::from_secs(2));
        assert_eq!(now.since(1_001), Duration::ZERO);
    }
}
