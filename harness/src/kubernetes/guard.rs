//! Takes a cluster away when the process that uses it ends, however it ends.
use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{ClusterName, down};
use crate::machine::binaries::binary;

/// While this process lives, the cluster may stay. Whoever reads this process's output sees its end when the cluster
/// is gone.
#[derive(Debug)]
pub struct Guard {
    _watcher: Child,
}

impl Guard {
    /// From now on, the cluster of this name goes when this process ends.
    pub fn set(name: &ClusterName) -> Result<Self> {
        let mut command = Command::new(binary("cluster")?);
        // Keys that interrupt the tests are not meant for it.
        command.args(["guard", "--name", &name.to_string()]).stdin(Stdio::piped()).process_group(0);
        Ok(Self { _watcher: command.spawn().context("start the guard of a cluster")? })
    }
}

/// Waits for the end of input: the end of the process at its other end. Then takes the cluster away.
pub fn watch(name: &ClusterName) -> Result<()> {
    let mut stdin = std::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).context("watch the owner")? > 0 {}
    down::remove(name)
}
