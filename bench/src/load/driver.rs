//! The measuring side of a client or server process.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::machine::process::{Place, Process};

use super::wire::{Order, Report, Slice};

/// A client process.
pub(crate) struct Client {
    name: String,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Ended when dropped.
    _process: Process,
}

impl Client {
    /// Starts a client; `mark` names the run in its command line.
    pub(crate) fn start(name: &str, mark: &str, place: Place<'_>) -> Result<Self> {
        let (process, stdin, stdout) = start(&["client", mark], place)?;
        Ok(Self { name: name.to_owned(), stdin, stdout, _process: process })
    }

    /// Gives an order and waits for the report.
    pub(crate) fn order(&mut self, order: &Order) -> Result<Report> {
        self.send(order)?;
        self.report()
    }

    /// Gives an order; [`Self::report`] tells how it went.
    pub(crate) fn send(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order).context("encode an order")?;
        writeln!(self.stdin, "{line}").with_context(|| format!("order the client of {}", self.name))
    }

    pub(crate) fn report(&mut self) -> Result<Report> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).with_context(|| format!("hear the client of {}", self.name))?;
        ensure!(!line.is_empty(), "the client of {} ended", self.name);
        let report = serde_json::from_str(&line).with_context(|| format!("not a report: {line}"))?;
        if let Report::Failed(message) = report {
            bail!("{}: {message}", self.name);
        }
        Ok(report)
    }

    /// Gives an order that is answered with a slice.
    pub(crate) fn slice(&mut self, order: &Order) -> Result<Slice> {
        self.send(order)?;
        self.sliced()
    }

    /// Waits for the slice of an order.
    pub(crate) fn sliced(&mut self) -> Result<Slice> {
        let report = self.report()?;
        let Report::Slice(slice) = report else { bail!("{}: not a slice: {report:?}", self.name) };
        Ok(*slice)
    }

    /// Waits for the moment of an order to follow a change.
    pub(crate) fn obeyed(&mut self) -> Result<u64> {
        let report = self.report()?;
        let Report::Obeyed { at, .. } = report else { bail!("{}: not a moment: {report:?}", self.name) };
        Ok(at)
    }
}

/// A server process.
pub(crate) struct Server {
    _stdin: ChildStdin,
    /// Ended when dropped.
    _process: Process,
}

impl Server {
    /// Starts a server; its sockets are bound when this returns.
    pub(crate) fn start(number: u8, addr: Ipv4Addr, mark: &str, place: Place<'_>) -> Result<Self> {
        let arguments = ["server", &number.to_string(), &addr.to_string(), mark];
        let (process, stdin, mut stdout) = start(&arguments, place)?;
        let mut line = String::new();
        stdout.read_line(&mut line).context("hear the server")?;
        ensure!(line.trim() == "ready", "server {number} at {addr} did not start");
        Ok(Self { _stdin: stdin, _process: process })
    }
}

fn start(arguments: &[&str], place: Place<'_>) -> Result<(Process, ChildStdin, BufReader<ChildStdout>)> {
    let own = std::env::current_exe().context("the path of the running program")?;
    let mut command = Command::new(own);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::spawn(command, place)?;
    let child = process.child_mut();
    let stdin = child.stdin.take().context("standard input is piped")?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    Ok((process, stdin, BufReader::new(stdout)))
}
