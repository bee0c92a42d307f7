//! What the collector of flows notes.
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dataplane_common::maps::MapId;

/// Looks at the flows.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    finished: AtomicU64,
    failed: AtomicU64,
    deleted: AtomicU64,
    nanoseconds: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    over_share: AtomicU64,
    /// Entries that the last look met.
    entries: Mutex<BTreeMap<MapId, usize>>,
}

/// The numbers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    pub(crate) deleted: u64,
    pub(crate) took: Duration,
    pub(crate) refused: u64,
    pub(crate) evicted: u64,
    /// In the last look.
    pub(crate) over_share: u64,
    pub(crate) entries: BTreeMap<MapId, usize>,
}

impl Sweeps {
    /// A portion of a look is done.
    pub(crate) fn portion(&self, took: Duration, deleted: usize) {
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.deleted.fetch_add(deleted as u64, Relaxed);
    }

    /// All entries of a map were met.
    pub(crate) fn counted(&self, map: MapId, entries: usize) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(map, entries);
    }

    pub(crate) fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Pods were refused flows, or lost them, since the look before.
    pub(crate) fn shares(&self, pods: usize, refused: u64, evicted: u64) {
        self.over_share.store(pods as u64, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
        self.evicted.fetch_add(evicted, Relaxed);
    }

    pub(crate) fn read(&self) -> Swept {
        Swept {
            finished: self.finished.load(Relaxed),
            failed: self.failed.load(Relaxed),
            deleted: self.deleted.load(Relaxed),
            took: Duration::from_nanos(self.nanoseconds.load(Relaxed)),
            refused: self.refused.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            over_share: self.over_share.load(Relaxed),
            entries: self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
