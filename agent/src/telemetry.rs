//! Diagnostics: where log lines go, and how errors read.
use std::{
    error::Error,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::EnvFilter;

/// What the client of the API server says of failed watches. The agent says it once, with the remedy.
const REPEATED: &str = "kube_runtime";

/// Starts logging to stderr, one readable line per event.
pub fn start(filter: &EnvFilter) {
    let wants_all = filter.to_string().contains(REPEATED);
    let quiet = format!("{REPEATED}=error").parse().ok().filter(|_| !wants_all);
    let filter = quiet.into_iter().fold(filter.clone(), EnvFilter::add_directive);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// An error and its causes in one line. A cause that the error before it quotes already is not repeated.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot read the file")]
        Plain(#[source] io::Error),
        #[error("cannot read the file: {0}")]
        Quoting(#[source] io::Error),
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let cause = || io::Error::other("it is gone");
        assert_eq!(chain(&Outer::Plain(cause())), "cannot read the file: it is gone");
        assert_eq!(chain(&Outer::Quoting(cause())), "cannot read the file: it is gone");
    }
}
