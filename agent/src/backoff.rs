//! When to try again what failed.
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles the pause after each failure, up to [`LONGEST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    due: Option<Instant>,
}

impl Backoff {
    /// Plans the next attempt.
    pub(crate) fn failed(&mut self, now: Instant) {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + pause);
    }

    /// Forgets the failures.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Makes the next attempt due at once, because what made it fail may have changed.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.due = self.due.map(|due| due.min(now));
    }

    /// When the next attempt is due; `None` when nothing failed.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            backoff.failed(now);
            pauses.extend(backoff.due().map(|due| due - now));
        }
        assert_eq!(pauses[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(pauses.last(), Some(&LONGEST));
    }

    #[test]
    fn a_hurried_attempt_is_due_at_once_and_only_if_one_is_planned() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.hurry(now);
        assert_eq!(backoff.due(), None);
        backoff.failed(now);
        backoff.hurry(now);
        assert_eq!(backoff.due(), Some(now));
    }

    #[test]
    fn success_begins_again() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now);
        backoff.failed(now);
        backoff.succeeded();
        assert_eq!(backoff.due(), None);
        backoff.failed(now);
        assert_eq!(backoff.due(), Some(now + FIRST));
    }
}
