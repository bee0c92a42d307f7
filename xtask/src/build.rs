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

/// The packages that are built for this machine. Every call of cargo chooses all of them, even if it builds only a
/// part: the features of dependencies follow from the choice, and with other features they are built once more.
pub(crate) const EVERYTHING: &[&str] =
    &["--workspace", "--exclude", "dataplane-ebpf", "--exclude", "bench-ebpf", "--exclude", "xtask"];

/// Builds everything that runs on a node, and the demo.
pub(crate) fn build(options: &Options) -> Result<()> {
    build_ebpf::build()?;
    match (options.ebpf, options.release) {
        (true, _) => Ok(()),
        (_, true) => binaries("release", "release", &["-p", "agent", "-p", "millrace-cli", "--bins"]),
        (_, false) => {
            binaries("dev", "debug", &[EVERYTHING, &["--exclude", "cni-plugin", "--bins"]].concat())
        }
    }
}

/// Builds everything with the features that dependencies have in tests.
pub(crate) fn for_tests() -> Result<()> {
    build_ebpf::build()?;
    binaries("dev", "debug", &[EVERYTHING, &["--exclude", "cni-plugin", "--bins", "--tests"]].concat())
}

/// Builds everything that the benchmarks run.
pub(crate) fn for_benchmarks(release: bool) -> Result<()> {
    build_ebpf::build()?;
    let (profile, folder) = if release { ("release", "release") } else { ("dev", "debug") };
    binaries(profile, folder, &[EVERYTHING, &["--exclude", "cni-plugin", "--bins"]].concat())
}

fn binaries(profile: &str, folder: &str, chosen: &[&str]) -> Result<()> {
    let folder = workspace::target().join(folder);
    command::announce("agent and command line");
    command::run(command::cargo("build").args(["--profile", profile]).args(chosen))?;

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
