//! Finds the programs under test beside the running one.
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

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
