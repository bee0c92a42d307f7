//! When a server begins to behave as told: requests one after the other, each with the time of its start.
use std::{
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use super::{
    connect::probe,
    wire::{Outcome, Until, Watch},
};

/// Between two requests: a change is seen no more exactly than this, and the machine has time to make it.
const INTERVAL: Duration = Duration::from_millis(1);

/// The time of the machine's monotonic clock: the same in every process.
#[must_use]
pub fn now() -> Duration {
    // Cannot fail for a clock that every kernel has.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::MAX, Duration::from)
}

/// A running watch.
#[derive(Debug)]
pub struct Watching {
    worker: JoinHandle<Result<Duration, String>>,
}

impl Watching {
    /// Begins; the first request was made when this returns.
    #[must_use]
    pub fn start(watch: Watch) -> Self {
        let (began, first) = mpsc::sync_channel(1);
        let worker = std::thread::spawn(move || {
            let mut began = Some(began);
            ask_until(&watch, &mut || drop(began.take()))
        });
        // An error says that the sender is gone: the request was made.
        let _: Result<(), _> = first.recv();
        Self { worker }
    }

    /// Waits for the end: when the first request was made that found what was wanted.
    pub fn end(self) -> Result<Duration, String> {
        self.worker.join().unwrap_or_else(|_| Err("the watch panicked".to_owned()))
    }
}

fn ask_until(watch: &Watch, after_each: &mut dyn FnMut()) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut blocked_at = None;
    loop {
        let at = now();
        let outcome = probe(watch.target, watch.timeout);
        after_each();
        match &watch.until {
            Until::Answered if outcome.is_answered() => return Ok(at),
            Until::AnsweredBy(name) if outcome.by() == Some(name) => return Ok(at),
            Until::Blocked if outcome == Outcome::TimedOut => {
                if let Some(first) = blocked_at.replace(at) {
                    return Ok(first);
                }
            }
            Until::Answered | Until::AnsweredBy(_) | Until::Blocked => blocked_at = None,
        }
        if begun.elapsed() >= watch.patience {
            return Err(format!(
                "{}: {outcome}, not {:?} for {:?}",
                watch.target.to, watch.until, watch.patience
            ));
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{
        serve::Server,
        wire::{Target, Transport},
    };

    fn watch(port: u16, until: Until) -> Watch {
        Watch {
            target: Target::tcp(([127, 0, 0, 1], port).into()),
            until,
            timeout: Duration::from_millis(50),
            patience: Duration::from_millis(200),
        }
    }

    #[test]
    fn a_watch_ends_with_the_first_answer_of_the_server_that_was_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let _server = Server::start("me", Transport::Tcp, port).expect("serve");
        let before = now();
        let seen = Watching::start(watch(port, Until::AnsweredBy("me".to_owned()))).end().expect("answers");
        assert!(before <= seen && seen <= now());
        let other = Watching::start(watch(port, Until::AnsweredBy("you".to_owned()))).end();
        assert!(other.is_err_and(|problem| problem.contains("answered by me")));
        assert!(Watching::start(watch(port, Until::Blocked)).end().is_err());
    }
}
