//! `cargo xtask`: build, test, lint and show the project. Each command installs what it needs or prints the exact
//! missing thing and the command for it.
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod build_ebpf;
mod cluster;
mod command;
mod compare;
mod components;
mod debian;
mod demo;
mod docs;
mod image;
mod lint;
mod machine;
mod mutants;
mod papers;
mod test;
mod tiers;
mod toolchain;
mod upgrade;
mod verifier;
mod vm;
mod walls;
mod workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test, lint and show Millrace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF object and the binaries; installs the eBPF toolchain first if it is missing
    Build(build::Options),
    /// Run the test tiers: pure logic, real programs, real traffic
    Test(test::Options),
    /// Show the whole product at work on this machine: two nodes, a service, a policy, a restart
    Demo(demo::Options),
    /// Make, enter and remove a real Kubernetes cluster on this machine; `cluster help` says more
    Cluster(cluster::Options),
    /// Pack the programs as a container image: static, reproducible, without a container engine
    Image(image::Options),
    /// Measure Millrace beside kube-proxy and plain routing
    Bench(bench::Options),
    /// Measure this checkout beside another commit of it
    Compare(compare::Options),
    /// Let the agent of another commit and this one's follow each other on nodes under load
    Upgrade(upgrade::Options),
    /// Check form, clippy, the walls between modules, and the generated documents
    Lint,
    /// Change the eBPF programs as an attacker would, one change at a time, and see which test notices
    Mutants(mutants::Options),
    /// Print verified instructions and load time of each program
    Verifier,
    /// Boot the kernels that users have and load every program into each
    Vm(vm::Options),
    /// Write the documents that are generated from the map and drop reason tables
    Docs(docs::Options),
}

/// The names of the commands.
fn commands() -> impl Iterator<Item = String> {
    let command = <Arguments as clap::CommandFactory>::command();
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter()
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build(options) => build::build(&options),
        Command::Test(options) => test::test(&options),
        Command::Demo(options) => demo::demo(&options),
        Command::Cluster(options) => cluster::cluster(&options),
        Command::Image(options) => image::image(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Compare(options) => compare::compare(&options),
        Command::Upgrade(options) => upgrade::upgrade(&options),
        Command::Lint => lint::lint(),
        Command::Mutants(options) => mutants::mutants(&options),
        Command::Verifier => verifier::verifier(),
        Command::Vm(options) => vm::vm(&options),
        Command::Docs(options) => docs::docs(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
