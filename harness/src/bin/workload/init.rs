//! The duties of a container's first process: to end when asked, and to reap.
use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// From now on, signals wait for [`wait_for_end`]; threads that start later leave them alone, too.
pub(crate) fn take_over() -> Result<()> {
    signals().thread_block().context("block signals")
}

/// Returns when the process is asked to end.
pub(crate) fn wait_for_end() -> Result<()> {
    take_over()?;
    while signals().wait().context("wait for a signal")? == Signal::SIGCHLD {
        reap()?;
    }
    Ok(())
}

fn reap() -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error).context("reap"),
        }
    }
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect()
}
