//! The kernel's jiffies, the clock of conntrack entries and denied flows.
use std::time::Duration;

/// Now, in jiffies, and how many make a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    jiffies: u64,
    hz: u64,
}

/// Values of `CONFIG_HZ`.
const RATES: [u64; 4] = [100, 250, 300, 1000];

/// Jiffies start 5 minutes before they overflow 32 bits (`INITIAL_JIFFIES`), so that overflow bugs show early.
const fn initial(hz: u64) -> u64 {
    (1 << 32) - 300 * hz
}

impl Clock {
    /// Reads the kernel's clocks; `None` when they are not readable: then ages are unknown.
    pub(crate) fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/timer_list").ok()?)
    }

    /// Takes both clocks from one text, so that they show the same moment.
    fn parse(timer_list: &str) -> Option<Self> {
        let number = |before: &str, after: &str| {
            let found = timer_list.lines().find_map(|line| line.strip_prefix(before)?.strip_suffix(after));
            found.and_then(|number| number.trim().parse::<u64>().ok())
        };
        let uptime_ms = number("now at ", " nsecs")? / 1_000_000;
        let jiffies = number("jiffies: ", "")?;
        let error = |hz: u64| {
            Some(jiffies.checked_sub(initial(hz))?.saturating_mul(1000).div_ceil(hz).abs_diff(uptime_ms))
        };
        let hz = RATES.into_iter().filter(|&hz| error(hz).is_some()).min_by_key(|&hz| error(hz))?;
        Some(Self { jiffies, hz })
    }

    /// How long ago that was.
    pub(crate) fn age(self, jiffies: u64) -> Duration {
        Duration::from_millis(self.jiffies.saturating_sub(jiffies).saturating_mul(1000) / self.hz)
    }
}

/// A duration as people say it: the two largest units.
pub(crate) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// An age as people say it; `-` when it is unknown.
pub(crate) fn spoken_age(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| spoken(Duration::from_secs(seconds)))
}

#[cfg(test)]
impl Clock {
    /// A clock that shows `jiffies`, at 250 a second.
    pub(crate) const fn at(jiffies: u64) -> Self {
        Self { jiffies, hz: 250 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer_list(uptime_seconds: u64, hz: u64) -> String {
        let jiffies = initial(hz) + uptime_seconds * hz + 3;
        format!(
            "Timer List Version: v0.10\nnow at {} nsecs\n\ncpu: 0\n  .idle_jiffies   : 1\njiffies: {jiffies}\n",
            uptime_seconds * 1_000_000_000
        )
    }

    #[test]
    fn the_rate_follows_from_the_two_clocks() {
        for hz in RATES {
            for uptime in [2, 90, 86_400, 400 * 86_400] {
                let clock = Clock::parse(&timer_list(uptime, hz)).unwrap();
                assert_eq!(clock.hz, hz, "after {uptime} s");
                assert_eq!(clock.age(clock.jiffies - 10 * hz), Duration::from_secs(10));
            }
        }
    }

    #[test]
    fn a_text_without_clocks_gives_no_clock() {
        assert_eq!(Clock::parse("Timer List Version: v0.10\n"), None);
    }

    #[test]
    fn a_stamp_from_the_future_has_no_age() {
        assert_eq!(Clock::at(100).age(200), Duration::ZERO);
    }

    #[test]
    fn the_kernel_of_this_machine_has_a_clock() {
        assert!(Clock::read().is_some(), "needs root and /proc/timer_list");
    }

    #[test]
    fn durations_are_said_in_two_units() {
        let spoken = [5, 65, 3_600, 90_061].map(|seconds| spoken(Duration::from_secs(seconds)));
        assert_eq!(spoken, ["5s", "1m 05s", "1h 00m", "1d 01h"]);
    }
}
