//! The pod's network namespace.
use std::{fs::File, io, os::fd::AsFd, path::Path};

use nix::{
    sched::{CloneFlags, setns},
    sys::stat::fstat,
};

/// A network namespace, and the way back to the one the plugin was started in.
///
/// The plugin has one thread, so entering another namespace concerns nothing else.
pub(crate) struct Netns {
    target: File,
    home: File,
}

/// Why a path is not a namespace to work in.
pub(crate) enum NetnsError {
    Missing,
    /// It is the namespace that the plugin itself runs in.
    Own,
    Io(io::Error),
}

impl Netns {
    pub(crate) fn open(path: &Path) -> Result<Self, NetnsError> {
        let target = File::open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound { NetnsError::Missing } else { NetnsError::Io(error) }
        })?;
        let home = File::open("/proc/thread-self/ns/net").map_err(NetnsError::Io)?;
        let (there, here) = (identity(&target), identity(&home));
        if there.map_err(NetnsError::Io)? == here.map_err(NetnsError::Io)? {
            return Err(NetnsError::Own);
        }
        let netns = Self { target, home };
        // Proves that it is a network namespace and that it may be entered.
        netns.inside(|| ()).map_err(NetnsError::Io)?;
        Ok(netns)
    }

    /// Runs something in the namespace.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(self.target.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let result = work();
        // Continuing in the wrong namespace would do the pod's changes to the host, or the other way round.
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(result)
    }

    pub(crate) const fn file(&self) -> &File {
        &self.target
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let stat = fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}
