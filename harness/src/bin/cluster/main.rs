//! A real Kubernetes cluster on this machine. `cargo xtask cluster` builds everything that it needs and runs this.
mod arguments;
mod command;

use std::process::ExitCode;

use clap::Parser as _;
use harness::kubernetes::{forward, guard, node};

use self::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let Arguments { name, command } = Arguments::parse();
    let result = match command {
        Command::Up(options) => command::up(&name, &options),
        Command::Status => command::status(&name),
        Command::Kubeconfig => command::kubeconfig(&name),
        Command::Kubectl { arguments } => command::kubectl(&name, &arguments),
        Command::Enter { machine, command } => command::enter(&name, &machine, &command),
        Command::Logs { component } => command::logs(&name, component.as_deref()),
        Command::Load { archive } => command::load(&name, &archive),
        Command::Down => command::down(&name),
        Command::Guard => guard::watch(&name),
        Command::Keep { order } => node::keep(&order),
        Command::Forward { to } => command::input_socket().and_then(|listener| forward::serve(&listener, to)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
