//! `cargo xtask cluster`: a program of the tests' crate, with everything that a cluster is made of.
use std::{fs, os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{build, command, components, debian, machine, oci, workspace};

/// What to do with the cluster.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// `build`, or what the cluster program understands: see `cargo xtask cluster help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND", default_value = "--help")]
    arguments: Vec<String>,
}

/// Programs that nodes run.
const NEEDED: &[debian::Needed] = &[
    debian::Needed { program: "ip", package: "iproute2", why: "the network between nodes" },
    debian::Needed { program: "runc", package: "runc", why: "containers" },
    debian::Needed { program: "iptables", package: "iptables", why: "kube-proxy" },
    debian::Needed { program: "nft", package: "nftables", why: "kube-proxy" },
    debian::Needed { program: "conntrack", package: "conntrack", why: "kube-proxy" },
];

/// Where the package containernetworking-plugins has its programs: not on the search path.
const PLUGIN: &str = "/usr/lib/cni/ptp";

/// The images that every node gets, by the name of their archive.
const COREDNS: (&str, &str) = ("coredns.tar", "localhost/millrace/coredns:test");
const PAUSE: (&str, &str) = ("pause.tar", "localhost/millrace/pause:test");
const WORKLOAD: (&str, &str) = ("workload.tar", "localhost/millrace/workload:test");

/// Does what the command line says; builds everything first when it makes a cluster.
pub(crate) fn cluster(options: &Options) -> Result<()> {
    let words: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    let program = workspace::target().join("debug/cluster");
    match words[..] {
        ["build"] => return build(),
        // A bad option shall not wait for a build, but a good one may need it.
        _ if words.contains(&"up") || !program.exists() => build()?,
        _ => {}
    }
    let mut cluster = command::program(&program);
    Err(cluster.args(words).exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// Builds the components, the images and the program itself.
pub(crate) fn build() -> Result<()> {
    machine::require_ebpf("a cluster")?;
    debian::ensure(NEEDED)?;
    if !PathBuf::from(PLUGIN).exists() {
        debian::install(&["containernetworking-plugins"])?;
    }
    let components = components::ensure()?;
    build::build(&build::Options::default())?;
    let workload = build::workload()?;

    let folder = workspace::target().join("cluster");
    let images = folder.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    components::link(&components, &folder.join("bin"))?;
    for ((archive, name), path, source, entrypoint) in [
        (COREDNS, "coredns", components.join("coredns"), &["/coredns"][..]),
        (PAUSE, "workload", workload.clone(), &["/workload", "pause"]),
        (WORKLOAD, "workload", workload, &["/workload"]),
    ] {
        let archive = images.join(archive);
        if !is_newer(&archive, &source)? {
            oci::write(&oci::Image { name, programs: &[(path, source)], entrypoint }, &archive)?;
        }
    }
    Ok(())
}

/// Whether a file was made after the one that it is made from.
fn is_newer(made: &std::path::Path, from: &std::path::Path) -> Result<bool> {
    let time = |path: &std::path::Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let from = time(from).with_context(|| format!("cannot read {}", from.display()))?;
    Ok(time(made).is_ok_and(|made| made > from))
}
