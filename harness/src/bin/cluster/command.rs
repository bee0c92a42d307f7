//! What each command does.
use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    net::TcpListener,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use harness::{
    kubernetes::{
        Cluster, ClusterName, control_plane, down as removal, kubectl as client, place::Place,
        programs::Programs,
    },
    machine::netns::Netns,
};

use crate::arguments::UpOptions;

pub(crate) fn up(name: &ClusterName, options: &UpOptions) -> Result<()> {
    let started = Instant::now();
    let progress = |step: &str| eprintln!("{:>6.1} s  {step}", started.elapsed().as_secs_f64());
    let cluster = Cluster::up(name, &options.options(), &progress).with_context(|| {
        format!("cluster {name} is not up; `cargo xtask cluster down --name {name}` removes it")
    })?;
    progress("up");
    let option = if name.to_string() == "millrace" { String::new() } else { format!(" --name {name}") };
    println!("KUBECONFIG={}", cluster.plane().kubeconfig().display());
    println!("cargo xtask cluster{option} kubectl get pods -A");
    println!("cargo xtask cluster{option} enter node-1");
    println!("cargo xtask cluster{option} down");
    Ok(())
}

pub(crate) fn status(name: &ClusterName) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let mut broken = Vec::new();
    for component in cluster.components() {
        if let Some(pid) = component.pid() {
            println!("{:<34} runs, process {pid}", component.label());
        } else {
            println!("{:<34} does not run", component.label());
            broken.push(component.label());
        }
    }
    println!();
    for what in [&["get", "nodes", "-o", "wide"][..], &["get", "pods", "-A", "-o", "wide"]] {
        let mut kubectl = cluster.kubectl()?;
        let status = kubectl.args(what).status().context("run kubectl")?;
        if !status.success() {
            broken.push("API".to_owned());
        }
        println!();
    }
    if broken.is_empty() { Ok(()) } else { bail!("these do not run: {}", broken.join(", ")) }
}

pub(crate) fn kubeconfig(name: &ClusterName) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let path = cluster.plane().kubeconfig();
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    io::stdout().write_all(&text).context("print the kubeconfig")
}

pub(crate) fn kubectl(name: &ClusterName, arguments: &[String]) -> Result<()> {
    if !control_plane::kubeconfig(name).exists() {
        // Says that there is no such cluster.
        Cluster::open(name)?;
    }
    let mut command = client(&Programs::find()?, name)?;
    Err(command.args(arguments).exec()).context("run kubectl")
}

pub(crate) fn enter(name: &ClusterName, machine: &str, command: &[String]) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let mut words = command.iter().map(String::as_str);
    let mut run = Command::new(words.next().unwrap_or("/bin/sh"));
    run.args(words);
    if command.is_empty() && !io::stdin().is_terminal() {
        bail!("no command, and no terminal for a shell: enter {machine} COMMAND…");
    }
    let mut run = match machine {
        "control" | "client" => {
            let netns = Netns::open(&name.part(machine))?;
            Place::network(&netns, Vec::new()).enter(&mut run)?;
            run
        }
        node => cluster.node(node)?.inside(run)?,
    };
    if let Some(terminal) = std::env::var_os("TERM") {
        run.env("TERM", terminal);
    }
    // Not in place of this process: one with several threads may not change its mounts.
    let status = run.status().with_context(|| format!("run in {machine}"))?;
    if !status.success() {
        bail!("the command in {machine} failed: {status}");
    }
    Ok(())
}

pub(crate) fn logs(name: &ClusterName, component: Option<&str>) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let components = cluster.components();
    let Some(wanted) = component else {
        for component in components {
            println!("{:<34} {}", component.label(), component.log().display());
        }
        return Ok(());
    };
    let labels = || components.iter().map(harness::kubernetes::component::Component::label);
    let component = components.iter().find(|component| component.label() == wanted).with_context(|| {
        format!(
            "cluster {name} has no program {wanted:?}; it has: {}",
            labels().collect::<Vec<_>>().join(", ")
        )
    })?;
    let log = component.log();
    let mut file = fs::File::open(&log).with_context(|| format!("open {}", log.display()))?;
    io::copy(&mut file, &mut io::stdout()).map(drop).context("print a log")
}

pub(crate) fn load(name: &ClusterName, archive: &Path) -> Result<()> {
    Cluster::open(name)?.load(archive)
}

pub(crate) fn down(name: &ClusterName) -> Result<()> {
    if !removal::present()?.contains(name) {
        eprintln!("cluster {name} is not there");
        return Ok(());
    }
    removal::remove(name)?;
    let left = removal::leftovers(name)?;
    if !left.is_empty() {
        bail!("cluster {name} is not wholly gone:\n  {}", left.join("\n  "));
    }
    eprintln!("cluster {name} is gone");
    Ok(())
}

/// Standard input, which is a listening socket.
pub(crate) fn input_socket() -> Result<TcpListener> {
    let socket = io::stdin().as_fd().try_clone_to_owned().context("duplicate standard input")?;
    Ok(TcpListener::from(socket))
}
