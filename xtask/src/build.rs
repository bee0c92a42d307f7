//! The eBPF object, then the binaries.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{build_ebpf, command, toolchain, workspace};

/// The same in every build: what is tested is what is shipped.
const PLUGIN_PROFILE: &str = "plugin";
const IMAGE_PROFILE: &str = "image";

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

/// The program of a test target, as cargo names it; it is built if it is not there.
pub(crate) fn test_program(target: &str) -> Result<PathBuf> {
    let mut cargo = command::cargo("test");
    cargo.args(EVERYTHING).args(["--test", target, "--no-run", "--message-format", "json", "-q"]);
    let messages = command::output(&mut cargo)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == target).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().with_context(|| format!("cargo names no program of the test target {target}"))
}

/// Builds what goes into the image, below `folder`: static, and the same bytes wherever the checkout is.
pub(crate) fn for_image(folder: &Path) -> Result<Vec<PathBuf>> {
    let target = toolchain::host()?;
    let flags: Vec<String> = std::iter::once("-Ctarget-feature=+crt-static".to_owned())
        .chain(toolchain::remapped_paths()?.into_iter().chain([toolchain::remap(folder, "/target")]))
        .collect();
    let build = |profile: &str, chosen: &[&str]| {
        let mut cargo = command::cargo("build");
        // A target that is named keeps the flags away from what runs during the build.
        cargo.args(["--profile", profile, "--target", &target, "--bins", "--target-dir"]).arg(folder);
        cargo.args(chosen).env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        command::run(&mut cargo)
    };
    command::announce("agent and command line, static");
    build(IMAGE_PROFILE, &["-p", "agent", "-p", "millrace-cli"])?;
    command::announce("CNI plugin, static");
    build(PLUGIN_PROFILE, &["-p", "cni-plugin"])?;
    let programs = folder.join(&target);
    Ok(vec![
        programs.join(IMAGE_PROFILE).join("millrace-agent"),
        programs.join(IMAGE_PROFILE).join("millrace"),
        programs.join(PLUGIN_PROFILE).join("millrace-cni"),
    ])
}

/// Builds what the benchmarks run.
pub(crate) fn for_benchmarks(release: bool) -> Result<()> {
    build_ebpf::build()?;
    let (profile, folder) = if release { ("release", "release") } else { ("dev", "debug") };
    let programs = ["--bin", "millrace-agent", "--bin", "millrace", "--bin", "netprobe", "--bin", "bench"];
    binaries(profile, folder, &[EVERYTHING, &programs].concat())
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

/// Builds the program of test pods: static, because an image holds nothing else.
pub(crate) fn workload() -> Result<PathBuf> {
    command::announce("program of the test pods");
    let mut cargo = command::cargo("rustc");
    cargo.args([
        "-p",
        "harness",
        "--bin",
        "workload",
        "--",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
    ]);
    command::run(&mut cargo)?;
    let published = workspace::target().join("cluster/workload");
    workspace::publish(&workspace::target().join("debug/workload"), &published)?;
    Ok(published)
}

/// Builds the program of the virtual machines: static, because nothing else is in them.
pub(crate) fn guest() -> Result<PathBuf> {
    command::announce("program of the virtual machines");
    let mut cargo = command::cargo("rustc");
    cargo.args(["-p", "verifier", "--bin", "verifier-guest", "--"]);
    command::run(cargo.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]))?;
    let published = workspace::target().join("vm/verifier-guest");
    workspace::publish(&workspace::target().join("debug/verifier-guest"), &published)?;
    Ok(published)
}
