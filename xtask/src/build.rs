//! The eBPF object, then the binaries.
use anyhow::Result;

use crate::{build_ebpf, command, workspace};

/// The same in every build: what is tested is what is shipped.
const PLUGIN_PROFILE: &str = "plugin";

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
    let (profile, folder) = if release { ("release", "release") } else { ("dev", "debug") };
    let folder = workspace::target().join(folder);
    command::announce("agent and command line");
    let mut cargo = command::cargo("build");
    command::run(cargo.args(["--profile", profile, "-p", "agent", "-p", "millrace-cli", "--bins"]))?;

    command::announce("CNI plugin: small, and static, because it runs on whatever the host has");
    let mut cargo = command::cargo("rustc");
    cargo.args(["--profile", PLUGIN_PROFILE, "-p", "cni-plugin", "--bin", "millrace-cni", "--"]);
    command::run(cargo.args(["-C", "target-feature=+crt-static"]))?;
    let built = workspace::target().join(PLUGIN_PROFILE).join("millrace-cni");
    workspace::publish(&built, &folder.join("millrace-cni"))?;

    for name in ["millrace-agent", "millrace", "millrace-cni"] {
        eprintln!("    {}", folder.join(name).display());
    }
    Ok(())
}
