//! The Millrace node agent.
use std::process::ExitCode;

use agent::{config::Config, telemetry};

fn main() -> ExitCode {
    let config = Config::from_command_line();
    telemetry::start(&config.log);
    match agent::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", telemetry::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
