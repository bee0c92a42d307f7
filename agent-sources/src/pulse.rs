//! What the watches note of themselves, for whoever looks from outside.
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use agent_core::update::Kind;

/// The watches of all kinds.
#[derive(Debug)]
pub struct Watches {
    origin: Instant,
    kinds: [Watch; Kind::ALL.len()],
}

/// The watch of a kind.
#[derive(Debug, Default)]
struct Watch {
    lists: AtomicU64,
    errors: AtomicU64,
    is_failing: AtomicBool,
    /// Milliseconds since the origin.
    heard: AtomicU64,
}

/// A watch at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    /// How many lists were begun.
    pub lists: u64,
    pub errors: u64,
    /// Whether the last thing that happened was a failure.
    pub is_failing: bool,
    /// When something came last.
    pub heard: Instant,
}

impl Default for Watches {
    fn default() -> Self {
        Self { origin: Instant::now(), kinds: Default::default() }
    }
}

impl Watches {
    /// The kinds that were ever listed: none without an API server.
    pub fn seen(&self) -> impl Iterator<Item = Seen> {
        Kind::ALL.into_iter().filter_map(|kind| {
            let watch = self.of(kind);
            let (lists, errors) = (watch.lists.load(Relaxed), watch.errors.load(Relaxed));
            let heard = self.origin + Duration::from_millis(watch.heard.load(Relaxed));
            (lists > 0).then(|| Seen {
                kind,
                lists,
                errors,
                is_failing: watch.is_failing.load(Relaxed),
                heard,
            })
        })
    }

    /// A list begins: the server is about to be asked.
    pub(crate) fn lists(&self, kind: Kind) {
        self.of(kind).lists.fetch_add(1, Relaxed);
    }

    /// The server sent something.
    pub(crate) fn heard(&self, kind: Kind, now: Instant) {
        let watch = self.of(kind);
        let since = now.saturating_duration_since(self.origin).as_millis();
        watch.heard.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
        watch.is_failing.store(false, Relaxed);
    }

    /// The watch works, though nothing came.
    pub(crate) fn works(&self, kind: Kind) {
        self.of(kind).is_failing.store(false, Relaxed);
    }

    pub(crate) fn failed(&self, kind: Kind) {
        let watch = self.of(kind);
        watch.errors.fetch_add(1, Relaxed);
        watch.is_failing.store(true, Relaxed);
    }

    fn of(&self, kind: Kind) -> &Watch {
        &self.kinds[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn a_watch_is_seen_once_it_has_listed() {
        let watches = Watches::default();
        assert_eq!(watches.seen().count(), 0);
        watches.lists(Kind::Pod);
        watches.failed(Kind::Pod);
        let seen: Vec<Seen> = watches.seen().collect();
        assert_eq!(
            (seen[0].kind, seen[0].lists, seen[0].errors, seen[0].is_failing),
            (Kind::Pod, 1, 1, true)
        );
        let now = watches.origin + Duration::from_secs(7);
        watches.heard(Kind::Pod, now);
        let seen: Vec<Seen> = watches.seen().collect();
        assert_eq!((seen.len(), seen[0].is_failing, seen[0].heard), (1, false, now));
    }
}
