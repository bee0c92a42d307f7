//! What each command shows: collected from the maps, as data, then as JSON or as text.
pub(crate) mod conntrack;
pub(crate) mod drops;
pub(crate) mod endpoint;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod policy;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod why;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::args::Output;

/// The result of a command.
pub(crate) trait Report: Serialize {
    /// For people.
    fn text(&self) -> String;

    fn exit_code(&self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

/// A report in the form that was asked for, and the exit code of the command.
pub(crate) fn printed<R: Report>(report: &R, output: Output) -> Result<(String, ExitCode)> {
    let text = match output {
        Output::Text => report.text(),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    Ok((text, report.exit_code()))
}
