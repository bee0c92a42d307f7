//! Polling with a deadline, in place of sleeps.
use std::{
    fmt::Display,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// How long tests wait for what takes milliseconds when it works.
pub const PATIENCE: Duration = Duration::from_secs(10);

const INTERVAL: Duration = Duration::from_millis(10);

/// How many times as long everything may take, where processors are emulated.
const FACTOR: &str = "MILLRACE_PATIENCE_FACTOR";

/// A time on a machine as it is: the same, but where `MILLRACE_PATIENCE_FACTOR` says that processors are slow.
#[must_use]
pub fn patient(usual: Duration) -> Duration {
    static SLOWER: LazyLock<u32> =
        LazyLock::new(|| std::env::var(FACTOR).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1));
    usual * *SLOWER
}

/// Calls a function until it succeeds; after the deadline its last error is the error.
pub fn eventually<T>(
    what: impl Display,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let (start, deadline) = (Instant::now(), patient(deadline));
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error.context(format!("{what}: not within {deadline:?}")));
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Waits until a condition holds.
pub fn holds(what: impl Display, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually(what, deadline, || if condition() { Ok(()) } else { Err(anyhow!("it does not hold")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_reported_after_the_deadline() {
        let mut calls = 0;
        let result: Result<()> = eventually("counting to three", Duration::from_millis(25), || {
            calls += 1;
            Err(anyhow!("call {calls}"))
        });
        let message = format!("{:#}", result.expect_err("never succeeds"));
        assert!(message.starts_with("counting to three: not within 25ms: call "), "{message}");
        assert!(calls >= 2, "{calls}");
    }

    #[test]
    fn success_ends_the_wait() {
        let mut calls = 0;
        holds("third call", PATIENCE, || {
            calls += 1;
            calls == 3
        })
        .expect("holds in the third call");
    }
}
