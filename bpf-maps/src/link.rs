//! Links: what is attached where, and swapping its program.
use std::os::fd::{AsFd, BorrowedFd};

use crate::{
    Error, Operation, Result,
    sys::{self, object::RawLinkInfo},
};

/// Link types in use (`enum bpf_link_type`).
const CGROUP: u32 = 3;
const XDP: u32 = 6;
const TCX: u32 = 11;

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An interface of the network namespace where the link was made; 0 once the interface is gone.
    Interface { ifindex: u32, attach_type: u32 },
    /// A cgroup, by the inode number of its directory; 0 once the cgroup is gone.
    Cgroup { id: u64, attach_type: u32 },
    /// A link of another type.
    Other { kind: u32 },
}

/// What the kernel knows of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub id: u32,
    pub prog_id: u32,
    pub target: Target,
}

/// Inspects a link; `name` stands for it in the error.
///
/// # Errors
/// When the descriptor is not a link.
pub fn info(link: BorrowedFd<'_>, name: &str) -> Result<LinkInfo> {
    let raw: RawLinkInfo = sys::object::info(link).map_err(|source| Error::Syscall {
        operation: Operation::Info,
        object: name.to_owned(),
        source,
    })?;
    let [first, second, third, _] = raw.details;
    let target = match raw.kind {
        TCX => Target::Interface { ifindex: first, attach_type: second },
        XDP => Target::Interface { ifindex: first, attach_type: 0 },
        CGROUP => Target::Cgroup {
            id: u64::from_ne_bytes(zerocopy::transmute!([first, second])),
            attach_type: third,
        },
        kind => Target::Other { kind },
    };
    Ok(LinkInfo { id: raw.id, prog_id: raw.prog_id, target })
}

/// Puts another program of the same type on a link. No packet misses a program; `name` stands for the link in
/// the error.
///
/// # Errors
/// When the program does not fit the link, or the caller lacks a capability.
pub fn update(link: BorrowedFd<'_>, program: impl AsFd, name: &str) -> Result<()> {
    sys::object::link_update(link, program.as_fd()).map_err(|source| Error::Syscall {
        operation: Operation::LinkUpdate,
        object: name.to_owned(),
        source,
    })
}

/// Where packets meet a tcx program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TcxHook {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

/// Ids of the programs on a tcx hook of an interface, in the order in which they run.
///
/// # Errors
/// When the interface is gone (`ENODEV`), or the kernel has no tcx.
pub fn tcx_programs(ifindex: u32, hook: TcxHook) -> Result<Vec<u32>> {
    sys::object::tcx_programs(ifindex, hook as u32).map_err(|source| Error::Syscall {
        operation: Operation::Query,
        object: format!("interface {ifindex}"),
        source,
    })
}

/// Takes the program of a link off its hook, as `bpftool link detach` does; `name` stands for the link in the error.
///
/// # Errors
/// When the link cannot be detached.
pub fn detach(link: BorrowedFd<'_>, name: &str) -> Result<()> {
    sys::object::link_detach(link).map_err(|source| Error::Syscall {
        operation: Operation::Detach,
        object: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::{fd::AsFd, unix::fs::MetadataExt},
        path::PathBuf,
    };

    use super::*;
    use crate::{
        program,
        sys::fixture::{CONNECT4, SOCK_ADDR, link, program_returning},
    };

    /// A cgroup of its own, gone when the test ends.
    struct Cgroup(PathBuf);

    impl Cgroup {
        fn make(name: &str) -> Self {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let mount = mounts
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>())
                .find(|line| line[2] == "cgroup2");
            let path = PathBuf::from(mount.expect("a cgroup2 mount")[1])
                .join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            if let Err(error) = fs::remove_dir(&self.0) {
                eprintln!("remove {}: {error}", self.0.display());
            }
        }
    }

    #[test]
    fn a_link_changes_its_program_and_stays_where_it_is() {
        let cgroup = Cgroup::make("millrace-link-test");
        let programs = [1, 0].map(|result| program_returning(SOCK_ADDR, CONNECT4, result).unwrap());
        let [first, second] = programs.each_ref().map(|fd| program::info(fd.as_fd()).unwrap().id);
        let dir = File::open(&cgroup.0).unwrap();
        let link = link(programs[0].as_fd(), dir.as_fd(), CONNECT4).unwrap();

        let before = info(link.as_fd(), "connect4").unwrap();
        assert_eq!(before.prog_id, first);
        assert_eq!(
            before.target,
            Target::Cgroup { id: dir.metadata().unwrap().ino(), attach_type: CONNECT4 }
        );
        update(link.as_fd(), programs[1].as_fd(), "connect4").unwrap();
        assert_eq!(info(link.as_fd(), "connect4").unwrap(), LinkInfo { prog_id: second, ..before });

        let error = update(link.as_fd(), dir.as_fd(), "connect4").unwrap_err();
        assert!(error.to_string().starts_with("cannot swap the program of connect4: "), "{error}");
    }
}
