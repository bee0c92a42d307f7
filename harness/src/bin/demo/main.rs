//! The whole product at work on one machine: two nodes, a service, a policy, a pod that becomes unready, and an agent
//! that is killed under load. `cargo xtask demo` builds everything and runs this.
//!
//! `demo [--keep | --remove]`: `--keep` leaves everything up and prints how to enter each pod; `--remove` removes
//! what was left up.
mod act;
mod cast;
mod interrupt;
mod show;

use std::process::ExitCode;

use anyhow::{Result, bail};
use harness::{
    machine::run::remove_dead,
    topology::{Options, Topology},
};

use self::{cast::Cast, show::Show};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keep = match arguments[..] {
        [] => false,
        ["--keep"] => true,
        ["--remove"] => return remove(),
        _ => bail!("usage: demo [--keep | --remove]"),
    };
    interrupt::watch()?;
    let show = Show::new();
    show.title("Millrace");
    show::say(
        "A Kubernetes node dataplane in eBPF. Each node below is a network namespace on this machine, with a cgroup \
              root, a bpffs and an agent of its own. There is no cluster: the agents read a folder of plain Kubernetes \
              YAML, and the pods are wired by the CNI plugin, called as a container runtime calls it.",
    );
    let topology = Topology::build(&Options { keep, ..Options::default() })?;
    match perform(&show, &topology) {
        Ok(cast) if keep => {
            show.left_up(&topology, &cast);
            // Dropping it would remove it.
            std::mem::forget(topology);
            Ok(())
        }
        Ok(cast) => {
            // The pods are shared; the last owner removes them.
            drop(cast);
            topology.close()?;
            show.title("All of it is gone again");
            show::say(
                "Namespaces, cgroups, mounts, programs and processes: nothing is left. With --keep it stays, to \
                      look around.",
            );
            Ok(())
        }
        Err(error) => {
            let interrupted = interrupt::check();
            if let Err(left) = topology.close() {
                eprintln!("{left:#}");
            }
            // Ctrl-C ends the processes of the demo, too; what follows from that is no news.
            interrupted.and(Err(error))
        }
    }
}

fn perform(show: &Show, topology: &Topology) -> Result<Cast> {
    let cast = cast::enter(show, topology)?;
    act::service::play(show, topology, &cast)?;
    act::policy::play(show, topology, &cast)?;
    act::readiness::play(show, topology, &cast)?;
    act::restart::play(show, topology, &cast)?;
    Ok(cast)
}

fn remove() -> Result<()> {
    let removed = remove_dead(true)?;
    println!(
        "removed: {}",
        if removed.is_empty() { "nothing was left up".to_owned() } else { removed.join(", ") }
    );
    Ok(())
}
