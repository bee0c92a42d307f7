//! Whatever happens to a cluster's maker, `down` leaves nothing.
use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{ClusterName, down, guard::Guard},
    machine::binaries::binary,
};

use crate::shared::{PATIENCE, own_name};

/// Starts a cluster, kills its maker as soon as a file of the cluster is there, and takes down what is left.
fn kill_the_maker_when_it_made(file: &str, part: &str) -> Result<()> {
    let name = own_name(part);
    let _guard = Guard::set(&name)?;
    let log = name.folder().join("maker.log");
    let mut maker = Command::new(binary("cluster")?);
    maker.args(["up", "--name", &name.to_string(), "--nodes", "1", "--proxy", "iptables", "--cni", "ptp"]);
    let mut maker =
        maker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start `cluster up`")?;
    let made = eventually(format!("{file} of {name}"), PATIENCE, || {
        ensure!(name.folder().join(file).exists(), "it is not there; {}", log.display());
        Ok(())
    });
    maker.kill().context("kill the maker")?;
    maker.wait().context("wait for the maker")?;
    made?;
    ensure!(!down::leftovers(&name)?.is_empty(), "there is nothing to take down");
    take_down(&name)
}

fn take_down(name: &ClusterName) -> Result<()> {
    let output = Command::new(binary("cluster")?).args(["down", "--name", &name.to_string()]).output();
    let output = output.context("run `cluster down`")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = down::leftovers(name)?;
    ensure!(left.is_empty(), "left: {left:#?}");
    ensure!(!down::present()?.contains(name), "{name} is still listed");
    ensure!(!Path::new(&name.folder()).exists(), "{} exists", name.folder().display());
    Ok(())
}

#[test]
fn a_start_killed_before_the_api_answers_leaves_nothing() -> Result<()> {
    kill_the_maker_when_it_made("logs/control.kube-apiserver.log", "early")
}

#[test]
fn a_start_killed_while_a_node_boots_leaves_nothing() -> Result<()> {
    kill_the_maker_when_it_made("logs/node-1.containerd.log", "boot")
}

#[test]
fn a_start_killed_while_pods_start_leaves_nothing() -> Result<()> {
    kill_the_maker_when_it_made("node-1/var/log/pods", "pods")
        .and_then(|()| kill_the_maker_when_it_made("logs/node-1.kube-proxy.log", "late"))
}
