//! Finds the programs under test beside the running one, and brings them to where they run.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The path of a program of this workspace, built into the same folder as the running program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("the path of the running program")?;
    let mut folder = running.parent().context("the running program has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("`deps` has no parent")?;
    }
    let path = folder.join(name);
    if !path.exists() {
        bail!("{} does not exist: run `cargo xtask build`", path.display());
    }
    Ok(path)
}

/// Copies a program to where it will run, in one step: who runs what was there before is not disturbed.
///
/// Another process writes it. A process that is being started by another thread at this moment would inherit an open file of
/// this one, and the kernel runs nothing that somebody may write to (`ETXTBSY`).
///
/// # Errors
/// If it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let mut copy = to.as_os_str().to_owned();
    copy.push(format!(".{}", COPIES.fetch_add(1, Ordering::Relaxed)));
    let output = Command::new("cp").arg(from).arg(&copy).output().context("run cp")?;
    ensure!(
        output.status.success(),
        "copy {} to {}: {}",
        from.display(),
        to.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&copy, to).with_context(|| format!("rename to {}", to.display()))
}
