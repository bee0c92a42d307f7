//! The eBPF object: the same bytes from the same sources, wherever the checkout is.
use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    command,
    toolchain::{self, Core},
    workspace,
};

/// The target of the programs.
const TARGET: &str = "bpfel-unknown-none";

/// Builds the object into [`workspace::ebpf_object`], which is written only when its content changes, so that
/// nothing that embeds or watches it is rebuilt for nothing.
pub(crate) fn build() -> Result<()> {
    let core = toolchain::ensure(TARGET)?;
    command::announce("eBPF programs");
    command::run(cargo("build", &core)?.args(["--profile", "ebpf"]))?;
    let built = workspace::target().join("ebpf-build").join(TARGET).join("ebpf/dataplane");
    let object = workspace::ebpf_object();
    if workspace::publish(&built, &object)? {
        eprintln!("    {} is new", object.display());
    }
    Ok(())
}

/// Checks the eBPF crate with clippy, on its own target.
pub(crate) fn clippy() -> Result<()> {
    let core = toolchain::ensure(TARGET)?;
    if matches!(core, Core::Prebuilt { .. }) {
        bail!("clippy of the eBPF crate needs the sources of core: rustup component add rust-src");
    }
    command::run(cargo("clippy", &core)?.args(["--profile", "ebpf", "--", "-D", "warnings"]))
}

fn cargo(subcommand: &str, core: &Core) -> Result<Command> {
    let mut cargo = command::cargo(subcommand);
    cargo
        .args(["-p", "dataplane-ebpf", "--target", TARGET, "--target-dir"])
        .arg(workspace::target().join("ebpf-build"))
        // Unstable parts on a stable compiler: `aya-ebpf` has some, and so has `-Z build-std`.
        .env("RUSTC_BOOTSTRAP", "1")
        // The encoded form wins over RUSTFLAGS and over flags from configuration files.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\u{1f}"));
    match core {
        Core::Sources => cargo.args(["-Z", "build-std=core"]),
        Core::Prebuilt { rustc } => cargo.env("RUSTC", rustc),
    };
    Ok(cargo)
}

fn flags() -> Result<Vec<String>> {
    let mut flags: Vec<String> =
        ["-Clinker=bpf-linker", "-Cdebuginfo=2", "-Clink-arg=--btf"].map(String::from).into();
    flags.extend(toolchain::remapped_paths()?);
    Ok(flags)
}
