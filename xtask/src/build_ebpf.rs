//! The eBPF object: the same bytes from the same sources, wherever the checkout is.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

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
    build_package("eBPF programs", "dataplane-ebpf", "dataplane", &workspace::ebpf_object())
}

/// Builds the object of the benchmarks into [`workspace::bench_object`].
pub(crate) fn build_bench() -> Result<()> {
    build_package("eBPF programs of the benchmarks", "bench-ebpf", "packets", &workspace::bench_object())
}

fn build_package(step: &str, package: &str, binary: &str, object: &Path) -> Result<()> {
    let core = toolchain::ensure(TARGET)?;
    command::announce(step);
    command::run(cargo("build", &core)?.args(["-p", package, "--profile", "ebpf"]))?;
    let built = workspace::target().join("ebpf-build").join(TARGET).join("ebpf").join(binary);
    if workspace::publish(&built, object)? {
        eprintln!("    {} is new", object.display());
    }
    Ok(())
}

/// Builds the object from a copy of the workspace, below `target`. The path of the object.
pub(crate) fn build_copy(copy: &Path, target: &Path) -> Result<PathBuf> {
    let core = toolchain::ensure(TARGET)?;
    let mut cargo = cargo_below(target, "build", &core)?;
    command::run(cargo.current_dir(copy).args(["-q", "-p", "dataplane-ebpf", "--profile", "ebpf"]))?;
    Ok(target.join(TARGET).join("ebpf/dataplane"))
}

/// Checks the eBPF crates with clippy, on their own target.
pub(crate) fn clippy() -> Result<()> {
    let core = toolchain::ensure(TARGET)?;
    if matches!(core, Core::Prebuilt { .. }) {
        bail!("clippy of the eBPF crates needs the sources of core: rustup component add rust-src");
    }
    for package in ["dataplane-ebpf", "bench-ebpf"] {
        command::run(cargo("clippy", &core)?.args([
            "-p",
            package,
            "--profile",
            "ebpf",
            "--",
            "-D",
            "warnings",
        ]))?;
    }
    Ok(())
}

fn cargo(subcommand: &str, core: &Core) -> Result<Command> {
    cargo_below(&workspace::target().join("ebpf-build"), subcommand, core)
}

fn cargo_below(target: &Path, subcommand: &str, core: &Core) -> Result<Command> {
    let mut cargo = command::cargo(subcommand);
    cargo
        .args(["--target", TARGET, "--target-dir"])
        .arg(target)
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
    let mut flags: Vec<String> = [
        "-Clinker=bpf-linker",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Without it, LLVM calls a loop over bytes for each memmove and memset, however small.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .map(String::from)
    .into();
    flags.extend(toolchain::remapped_paths()?);
    Ok(flags)
}
