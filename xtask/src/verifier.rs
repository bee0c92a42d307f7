//! What the kernel's verifier says of each program.
use anyhow::Result;

use crate::{build_ebpf, command, machine};

/// Loads every program, attached to nothing, and prints its verified instructions and load time.
pub(crate) fn verifier() -> Result<()> {
    machine::require_ebpf("the verifier's count")?;
    build_ebpf::build()?;
    command::run(command::cargo("run").args(["--quiet", "-p", "millrace-tests", "--bin", "verifier"]))
}
