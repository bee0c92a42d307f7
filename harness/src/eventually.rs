//! Polling with a deadline, in place of sleeps.
use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// How long tests wait for what takes milliseconds when it works.
pub const PATIENCE: Duration = Duration::from_secs(10);

const INTERVAL: Duration = Duration::from_millis(10);

/// Calls a function until it succeeds; after the deadline its last error is the error.
pub fn eventually<T>(
    what: impl Display,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
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
