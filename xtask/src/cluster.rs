//! `cargo xtask cluster`: a program of the tests' crate, with everything that a cluster is made of.
use std::{fs, os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result};

use crate::{build, command, components, debian, image, image::archive::Image, machine, workspace};

/// What to do with the cluster.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// `build`, or what the cluster program understands: see `cargo xtask cluster help`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND",
        default_value = "--help"
    )]
    arguments: Vec<String>,
}

/// Programs that nodes run.
const NEEDED: &[debian::Needed] = &[
    debian::Needed { program: "ip", package: "iproute2", why: "the network between nodes" },
    debian::Needed { program: "runc", package: "runc", why: "containers" },
    debian::Needed { program: "iptables", package: "iptables", why: "kube-proxy" },
    debian::Needed { program: "nft", package: "nftables", why: "kube-proxy" },
    debian::Needed { program: "conntrack", package: "conntrack", why: "kube-proxy" },
    debian::Needed {
        program: "/usr/lib/cni/ptp",
        package: "containernetworking-plugins",
        why: "the reference network",
    },
];

/// Does what the command line says; builds everything first when it makes a cluster.
pub(crate) fn cluster(options: &Options) -> Result<()> {
    let words: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    let program = workspace::target().join("debug/cluster");
    match words[..] {
        ["build"] => return build(),
        // Who asks what there is does not want to wait for all of it to be built.
        ["help" | "--help" | "-h", ..] => {
            command::run(command::cargo("build").args(["--quiet", "-p", "harness", "--bin", "cluster"]))?;
        }
        // A bad option shall not wait for a build, but a good one may need it.
        _ if words.contains(&"up") || !program.exists() => build()?,
        _ => {}
    }
    if words.contains(&"up") && asks_for_millrace(&words) {
        image::image(&image::Options::default())?;
    }
    let mut cluster = command::program(&program);
    Err(cluster.args(words).exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// Whether the network is Millrace: it is, unless an option chooses another.
fn asks_for_millrace(words: &[&str]) -> bool {
    let chosen = words.iter().enumerate().find_map(|(at, word)| {
        word.strip_prefix("--cni=").or_else(|| (*word == "--cni").then(|| words.get(at + 1).copied())?)
    });
    chosen.is_none_or(|network| network == "millrace")
}

/// Builds the components, the images and the program itself.
pub(crate) fn build() -> Result<()> {
    machine::require_ebpf("a cluster")?;
    debian::ensure(NEEDED)?;
    let components = components::ensure()?;
    build::build(&build::Options::default())?;
    let workload = build::workload()?;

    let folder = workspace::target().join("cluster");
    let images = folder.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    components::link(&components, &folder.join("bin"))?;
    for (archive, name, program, entrypoint) in [
        ("coredns.tar", "localhost/millrace/coredns:test", components.join("coredns"), &["/coredns"][..]),
        ("pause.tar", "localhost/millrace/pause:test", workload.clone(), &["/workload", "pause"]),
        ("workload.tar", "localhost/millrace/workload:test", workload, &["/workload"]),
    ] {
        pack(&images.join(archive), name, &program, entrypoint)?;
    }
    Ok(())
}

/// Makes the archive of an image that holds one program, unless it is newer than the program.
fn pack(archive: &Path, name: &str, program: &Path, entrypoint: &[&str]) -> Result<()> {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let made_from = changed(program).with_context(|| format!("cannot read {}", program.display()))?;
    if changed(archive).is_ok_and(|made| made > made_from) {
        return Ok(());
    }
    command::announce(&format!("image {name}"));
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let image = Image::new(name).entrypoint(entrypoint).file(entrypoint[0], 0o755, content);
    let (bytes, _) = image.archive()?;
    // A reader sees the old archive or the new one, never half of it.
    let partial = archive.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, archive))
        .with_context(|| format!("cannot write {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_millrace_is_built_unless_another_network_is_chosen() {
        assert!(asks_for_millrace(&["up"]));
        assert!(asks_for_millrace(&["up", "--cni", "millrace"]));
        assert!(asks_for_millrace(&["up", "--cni=millrace"]));
        assert!(!asks_for_millrace(&["up", "--name", "millrace", "--cni", "ptp"]));
        assert!(!asks_for_millrace(&["up", "--cni=none"]));
    }
}
