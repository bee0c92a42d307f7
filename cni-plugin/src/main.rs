//! `millrace-cni`: wires pod interfaces, as container runtimes ask for it by the Container Network Interface.
//!
//! Environment and standard input in; a result or an error, as JSON, on standard output out. The plugin does what
//! needs the pod's network namespace; addresses and policy are the agent's, behind its socket.
#![forbid(unsafe_code)]

mod agent;
mod command;
mod config;
mod environment;
mod kernel;
mod netns;
mod spec;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use config::NetConf;
use environment::{Environment, Verb};
use serde_json::Value;
use spec::{Error, Version};

fn main() -> ExitCode {
    let variables = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let environment = Environment::new(variables);
    let mut answer_version = Version::LATEST;
    match run(&environment, &mut answer_version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) if print(&result).is_ok() => ExitCode::SUCCESS,
        // The runtime reads errors from standard output; if that is closed, nobody listens.
        Ok(Some(_)) => ExitCode::FAILURE,
        Err(error) => {
            let _ = print(&error.to_json(answer_version));
            ExitCode::FAILURE
        }
    }
}

fn run(environment: &Environment, answer_version: &mut Version) -> Result<Option<Value>, Error> {
    let mut conf = || {
        let input = config::read(io::stdin())?;
        *answer_version = config::answer_version(&input);
        NetConf::parse(&input)
    };
    match environment.verb()? {
        Verb::Add => command::add(environment, &conf()?).map(Some),
        Verb::Del => command::del(environment, &conf()?).map(|()| None),
        Verb::Check => command::check(environment, &conf()?).map(|()| None),
        Verb::Gc => command::gc(&conf()?).map(|()| None),
        Verb::Status => command::status(&conf()?).map(|()| None),
        Verb::Version => Ok(Some(command::version())),
    }
}

fn print(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
