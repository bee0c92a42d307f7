//! Handing the node over to an agent of the first release, which knows none of the present layouts.
use std::{collections::BTreeSet, os::fd::AsFd as _, path::Path, thread, time::Duration};

use bpf_maps::{MillraceDir, link};

use super::{
    lock::{self, LockError},
    maps::{MapsError, Rollback},
};

/// Between two looks at what the maps that are in use got.
const PAUSE: Duration = Duration::from_millis(5);

/// Why the way back is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RollbackError {
    #[error(transparent)]
    Dir(#[from] bpf_maps::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// Gives the pins to maps of the first release, and keeps those in step with what the programs write until `is_over` says to
/// stop, or another agent has put its programs into the links. Whether it has.
pub(crate) fn rollback(bpffs: &Path, is_over: impl Fn() -> bool) -> Result<bool, RollbackError> {
    let dir = MillraceDir::new(bpffs);
    dir.check()?;
    let lock = lock::acquire(&dir)?;
    let ours = running(&dir)?;
    let rollback = Rollback::prepare(&dir)?;
    // For the other agent.
    drop(lock);
    tracing::info!("the maps are those of the first release: start its agent now");
    let is_taken = loop {
        thread::sleep(PAUSE);
        rollback.follow()?;
        if running(&dir)?.is_disjoint(&ours) {
            break true;
        }
        if is_over() {
            break false;
        }
    };
    if is_taken {
        rollback.finish()?;
    }
    Ok(is_taken)
}

/// The programs in the pinned links, by number.
fn running(dir: &MillraceDir) -> Result<BTreeSet<u32>, bpf_maps::Error> {
    let mut programs = BTreeSet::new();
    for name in dir.link_names()? {
        match bpf_maps::obj_get(&dir.link_path(&name)) {
            Ok(pinned) => _ = programs.insert(link::info(pinned.as_fd(), &name)?.prog_id),
            // Another agent removes what it does not know.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}
