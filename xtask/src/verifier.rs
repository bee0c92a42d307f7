//! What the kernel's verifier says of each program.
use anyhow::Result;

use crate::{build, command, machine, workspace};

/// Loads every program, attached to nothing, and prints its verified instructions and load time.
pub(crate) fn verifier() -> Result<()> {
    machine::require_ebpf("the verifier's count")?;
    build::build(&build::Options::default())?;
    command::run(&mut command::program(workspace::target().join("debug/verifier")))
}
