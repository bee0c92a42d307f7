//! One agent per pin directory.
use std::{fs, fs::File, os::unix::fs::MetadataExt as _, path::PathBuf};

use bpf_maps::{Error, MillraceDir};

/// Why the directory cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another millrace-agent{} uses {}: stop it, or give this one a bpffs of its own with --bpffs",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display()
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    Dir(#[from] Error),
}

/// Claims the directory until the file is closed, which the kernel also does when the agent is killed.
pub(super) fn acquire(dir: &MillraceDir) -> Result<File, LockError> {
    match dir.lock() {
        Ok(lock) => Ok(lock),
        Err(Error::Locked { path }) => {
            let inode = fs::metadata(&path).map(|metadata| metadata.ino()).ok();
            let locks = fs::read_to_string("/proc/locks").ok();
            let pid = locks.zip(inode).and_then(|(locks, inode)| holder_in(&locks, inode));
            Err(LockError::InUse { path, pid })
        }
        Err(error) => Err(error.into()),
    }
}

/// The holder of the flock on an inode in the text of `/proc/locks` (proc(5)):
/// `1: FLOCK  ADVISORY  WRITE 708 00:0a:1234 0 EOF`. Waiters have a `->` behind the number.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let kind = fields.next()?;
        let pid = fields.nth(2)?;
        let (_, held) = fields.next()?.rsplit_once(':')?;
        (kind == "FLOCK" && held.parse() == Ok(inode)).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 12 00:1b:77 0 EOF\n\
                         2: FLOCK  ADVISORY  WRITE 708 00:2e:77 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 709 00:2e:77 0 EOF\n\
                         3: FLOCK  ADVISORY  WRITE 710 00:2e:78 0 EOF\n";

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_inode() {
        assert_eq!(holder_in(LOCKS, 77), Some(708));
        assert_eq!(holder_in(LOCKS, 78), Some(710));
        assert_eq!(holder_in(LOCKS, 7), None);
    }

    #[test]
    fn other_kinds_of_locks_and_garbage_are_passed_over() {
        assert_eq!(holder_in("1: POSIX  ADVISORY  WRITE 12 00:1b:77 0 EOF\n", 77), None);
        assert_eq!(holder_in("garbage\n\n1:\n", 77), None);
    }
}
