//! The `millrace` command: shows what this node does, from the pinned maps.
mod agent;
mod args;
mod clock;
mod command;
mod names;
mod node;
mod report;
mod table;
mod wait;
mod why;

use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let args = args::from_command_line();
    let result = command::run(&args).and_then(|(text, code)| {
        match io::stdout().write_all(text.as_bytes()) {
            // Whoever read the output has seen enough of it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(code),
        }
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
