//! Taking everything pinned out of the kernel.
use std::{fs, io, path::Path};

use bpf_maps::MillraceDir;
use nix::net::if_::if_nametoindex;

use super::{
    filter,
    hook::{CgroupHook, LinkName},
    lock::{self, LockError},
};
use crate::net::clsact;

/// Why pins are left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error(transparent)]
    Dir(#[from] bpf_maps::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot remove the filters of the interfaces")]
    Filters(#[source] io::Error),
    #[error("cannot remove {path}")]
    Pin { path: String, source: io::Error },
}

/// The pins of a node whose agent does not run, and will not while this lives.
#[derive(Debug)]
pub(crate) struct Claimed {
    dir: MillraceDir,
    _lock: Option<fs::File>,
}

/// Claims the pins, so that no agent works on them meanwhile.
pub(crate) fn claim(bpffs: &Path) -> Result<Claimed, RemoveError> {
    let dir = MillraceDir::new(bpffs);
    dir.check()?;
    let lock = if dir.root().exists() { Some(lock::acquire(&dir)?) } else { None };
    Ok(Claimed { dir, _lock: lock })
}

impl Claimed {
    /// Detaches every program and forgets every map. Returns how many links and maps there were, and what is left.
    pub(crate) fn remove(&self) -> (usize, Vec<RemoveError>) {
        let mut errors = Vec::new();
        // What translates goes before what undoes a translation: no process sees an address that it did not ask for.
        let sockets = CgroupHook::ALL.iter().rev().map(|hook| self.dir.link_path(hook.program()));
        let mut removed = sockets.filter(|path| remove(path, &mut errors)).count();
        match self.remove_filters() {
            Ok(filters) => removed += filters,
            Err(error) => errors.push(error),
        }
        for folder in [self.dir.links_dir(), self.dir.maps_dir(), self.dir.root()] {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    errors.push(RemoveError::Pin { path: folder.display().to_string(), source });
                    continue;
                }
            };
            for entry in entries.flatten() {
                removed += usize::from(remove(&entry.path(), &mut errors));
            }
            if let Err(source) = fs::remove_dir(&folder) {
                errors.push(RemoveError::Pin { path: folder.display().to_string(), source });
            }
        }
        (removed, errors)
    }
}

impl Claimed {
    /// Removes our filters, and the qdiscs that were made for them and hold no others.
    fn remove_filters(&self) -> Result<usize, RemoveError> {
        let removed = filter::remove_all().map_err(RemoveError::Filters)?;
        for name in self.dir.link_names()? {
            let LinkName::Qdisc { ifname } = LinkName::parse(&name) else { continue };
            // It may have gone with its interface.
            if let Ok(ifindex) = if_nametoindex(ifname.as_str()) {
                clsact::remove_qdisc_if_empty(ifindex).map_err(RemoveError::Filters)?;
            }
        }
        Ok(removed)
    }
}

/// Removes a pin. `false`: it was not there, or it is still there.
fn remove(path: &Path, errors: &mut Vec<RemoveError>) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => {
            errors.push(RemoveError::Pin { path: path.display().to_string(), source });
            false
        }
    }
}
