//! The eBPF object, then the binaries.
use anyhow::Result;

use crate::{build_ebpf, command, workspace};

/// What to build.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Build the binaries optimised
    #[arg(long)]
    release: bool,
    /// Build the eBPF object only
    #[arg(long)]
    ebpf: bool,
}

/// Builds everything that runs on a node.
pub(crate) fn build(options: &Options) -> Result<()> {
    build_ebpf::build()?;
    if options.ebpf {
        return Ok(());
    }
    binaries(options.release)
}

/// Builds the binaries into `target/debug` or `target/release`.
fn binaries(release: bool) -> Result<()> {
    let profile = if release { "release" } else { "dev" };
    command::announce("agent and command line");
    let mut cargo = command::cargo("build");
    command::run(cargo.args(["--profile", profile, "-p", "agent", "-p", "millrace-cli", "--bins"]))?;

    command::announce("CNI plugin, static: it runs where the host's libraries may be of any age");
    let mut cargo = command::cargo("rustc");
    cargo.args(["--profile", profile, "-p", "cni-plugin", "--bin", "millrace-cni", "--"]);
    command::run(cargo.args(["-C", "target-feature=+crt-static"]))?;

    let folder = workspace::target().join(if release { "release" } else { "debug" });
    for name in ["millrace-agent", "millrace", "millrace-cni"] {
        eprintln!("    {}", folder.join(name).display());
    }
    Ok(())
}
