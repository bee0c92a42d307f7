//! Where a component runs: the namespaces and cgroups of one machine of the cluster.
use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::machine::netns::Netns;

/// The namespaces and groups of a machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// Files of namespaces, with the kind of each.
    namespaces: Vec<(PathBuf, CloneFlags)>,
    groups: Vec<PathBuf>,
}

impl Place {
    /// A place with a network of its own and the machine's own file system.
    #[must_use]
    pub fn network(netns: &Netns, groups: Vec<PathBuf>) -> Self {
        Self { namespaces: vec![(netns.path(), CloneFlags::CLONE_NEWNET)], groups }
    }

    /// The place that a process is in. Its own groups are left for `groups`.
    #[must_use]
    pub fn of_process(pid: u32, groups: Vec<PathBuf>) -> Self {
        let namespace = |name: &str| PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        let namespaces = vec![
            (namespace("net"), CloneFlags::CLONE_NEWNET),
            (namespace("uts"), CloneFlags::CLONE_NEWUTS),
            (namespace("cgroup"), CloneFlags::CLONE_NEWCGROUP),
            // The last one: afterwards other paths mean other files.
            (namespace("mnt"), CloneFlags::CLONE_NEWNS),
        ];
        Self { namespaces, groups }
    }

    /// Makes a command start in this place.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let open = |path: &PathBuf, write: bool| {
            let file = OpenOptions::new().read(!write).write(write).open(path);
            file.with_context(|| format!("open {}", path.display()))
        };
        let groups: Vec<File> =
            self.groups.iter().map(|group| open(&group.join("cgroup.procs"), true)).collect::<Result<_>>()?;
        let namespaces: Vec<(File, CloneFlags)> = self
            .namespaces
            .iter()
            .map(|(path, kind)| Ok((open(path, false)?, *kind)))
            .collect::<Result<_>>()?;
        let enter = move || {
            for group in &groups {
                // "0" stands for the writing process.
                // SAFETY: the buffer is one byte long.
                if unsafe { libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1) } != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (namespace, kind) in &namespaces {
                setns(namespace.as_fd(), *kind)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec `enter` makes only system calls; it takes no lock and no memory.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}
