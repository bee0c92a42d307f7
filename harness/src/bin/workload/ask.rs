//! One question to a server.
use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use harness::probe::{
    connect::probe,
    wire::{Outcome, Target, Transport},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    transport: Protocol,
    /// Name or address, and port
    server: String,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

/// Asks each address of the server in turn and prints the first answer: the server's name, and the client as it saw it.
pub(crate) fn ask(options: &Options) -> Result<()> {
    let transport = match options.transport {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    let mut last = None;
    for to in addresses(&options.server)? {
        let target = Target { transport, to, from: None };
        let outcome = probe(target, Duration::from_millis(options.timeout));
        if let Outcome::Answered(answer) = outcome {
            println!("{} {}", answer.by, answer.saw);
            return Ok(());
        }
        last = Some((to, outcome));
    }
    let (to, outcome) = last.context("the name has no address")?;
    bail!("{to}: {outcome}")
}

/// The addresses of `HOST:PORT`.
pub(crate) fn addresses(server: &str) -> Result<Vec<SocketAddr>> {
    let found = server.to_socket_addrs().with_context(|| format!("look up {server}"))?;
    Ok(found.collect())
}
