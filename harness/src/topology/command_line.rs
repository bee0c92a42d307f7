//! The command `millrace`, as an administrator of a node runs it.
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Node;
use crate::machine::binaries::binary;

/// What the command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub code: Option<i32>,
    pub text: String,
    /// What it printed to standard error.
    pub errors: String,
}

impl Node {
    /// Runs `millrace` with these arguments.
    pub fn millrace(&self, arguments: &[&str]) -> Result<Shown> {
        let output = Command::new(binary("millrace")?)
            .arg("--bpffs")
            .arg(self.bpffs())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .args(arguments)
            .output()
            .context("run millrace")?;
        Ok(Shown {
            code: output.status.code(),
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}
