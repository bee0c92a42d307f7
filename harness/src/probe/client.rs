//! A test's end of a `netprobe` process.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{ChildStdin, ChildStdout, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::wire::{Command, LoadPlan, LoadReport, Outcome, Question, Report, Target, Transport, Watch};
use crate::machine::{
    binaries::binary,
    process::{Place, Process},
    run::Run,
};

/// A process that serves and probes from one place.
#[derive(Debug)]
pub struct Probe {
    name: String,
    // Before the process, so that it sees the end of its input and is not killed while it writes.
    pipes: Mutex<Pipes>,
    process: Process,
}

#[derive(Debug)]
struct Pipes {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts a process. `name` is what its servers answer.
    pub fn start(run: &Run, name: &str, place: Place<'_>) -> Result<Self> {
        let mut command = std::process::Command::new(binary("netprobe")?);
        command.args([name, &run.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if place.outlives {
            command.arg("--outlive");
        }
        Self::of(name, Process::spawn(command, place)?)
    }

    /// Starts a command that leads to a process which obeys, wherever that is.
    pub fn through(name: &str, mut command: std::process::Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::of(name, Process::start(command)?)
    }

    /// The other end of a process that obeys; its input and output must be pipes.
    pub fn of(name: &str, mut process: Process) -> Result<Self> {
        let child = process.child_mut();
        let stdin = child.stdin.take().context("standard input is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("standard output is piped")?);
        Ok(Self { name: name.to_owned(), pipes: Mutex::new(Pipes { stdin, stdout }), process })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
    }

    /// Sends an order and waits for the report.
    fn order(&self, command: &Command) -> Result<Report> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = serde_json::to_string(command).context("encode an order")?;
        line.push('\n');
        pipes.stdin.write_all(line.as_bytes()).with_context(|| format!("order {}", self.name))?;
        let mut answer = String::new();
        pipes.stdout.read_line(&mut answer).with_context(|| format!("report of {}", self.name))?;
        let report = serde_json::from_str(&answer);
        let report = report.with_context(|| format!("{} ended: {answer:?}", self.name))?;
        if let Report::Failed(message) = report {
            bail!("{}: {message}", self.name);
        }
        Ok(report)
    }

    /// Serves on a port; the socket is bound when this returns.
    pub fn listen(&self, transport: Transport, port: u16) -> Result<()> {
        self.done(&Command::Listen { transport, port })
    }

    /// Stops serving on a port.
    pub fn unlisten(&self, transport: Transport, port: u16) -> Result<()> {
        self.done(&Command::Unlisten { transport, port })
    }

    /// Requests that the server on a port has seen.
    pub fn served(&self, transport: Transport, port: u16) -> Result<u64> {
        let report = self.order(&Command::Served { transport, port })?;
        let Report::Count(count) = report else { return self.unexpected(&report) };
        Ok(count)
    }

    /// Tries all targets at once; outcomes are in their order.
    pub fn probe(&self, targets: &[Target], timeout: Duration) -> Result<Vec<Outcome>> {
        let report = self.order(&Command::Probe { targets: targets.to_vec(), timeout })?;
        let Report::Outcomes(outcomes) = report else { return self.unexpected(&report) };
        Ok(outcomes)
    }

    /// Tries one target.
    pub fn probe_one(&self, target: Target, timeout: Duration) -> Result<Outcome> {
        self.probe(&[target], timeout)?.pop().context("one outcome for one target")
    }

    /// Asks a DNS server. What is in the way of an answer is the outcome.
    pub fn look_up(&self, question: &Question) -> Result<Result<Vec<IpAddr>, Outcome>> {
        let report = self.order(&Command::LookUp(question.clone()))?;
        if let Report::Addresses(addresses) = report {
            return Ok(Ok(addresses));
        }
        let Report::Outcomes(mut outcomes) = report else { return self.unexpected(&report) };
        Ok(Err(outcomes.pop().context("one outcome for one question")?))
    }

    /// The addresses of a name, by the resolver that programs there have.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>> {
        let report = self.order(&Command::Resolve { name: name.to_owned() })?;
        let Report::Addresses(addresses) = report else { return self.unexpected(&report) };
        Ok(addresses)
    }

    /// Begins to ask a server without a pause, until it behaves as told; the first request was made when this returns.
    pub fn watch(&self, watch: &Watch) -> Result<()> {
        self.done(&Command::Watch(watch.clone()))
    }

    /// When the first request was made that found the server as wanted, on the clock of [`now`](super::watch::now).
    pub fn watched(&self) -> Result<Duration> {
        let report = self.order(&Command::Watched)?;
        let Report::Seen { at } = report else { return self.unexpected(&report) };
        Ok(at)
    }

    /// Opens a connection that stays open, and makes one request.
    pub fn open(&self, target: Target, timeout: Duration) -> Result<(HeldConnection<'_>, Outcome)> {
        let report = self.order(&Command::Open { target, timeout })?;
        let Report::Opened { held, outcome } = report else { return self.unexpected(&report) };
        Ok((HeldConnection { probe: self, held }, outcome))
    }

    /// Connects UDP sockets to an address, one after the other, and closes each.
    pub fn churn(&self, to: SocketAddr, sockets: u32) -> Result<()> {
        self.done(&Command::Churn { to, sockets })
    }

    /// Begins a load.
    pub fn start_load(&self, plan: &LoadPlan) -> Result<()> {
        self.done(&Command::StartLoad(plan.clone()))
    }

    /// Begins to send datagrams, whether or not they can be sent.
    pub fn start_flood(&self, targets: &[SocketAddr], interval: Duration) -> Result<()> {
        self.done(&Command::Flood { targets: targets.to_vec(), interval })
    }

    /// The counts of a running load.
    pub fn load_so_far(&self) -> Result<LoadReport> {
        self.load(&Command::LoadSoFar)
    }

    /// Ends a load or a flood.
    pub fn stop_load(&self) -> Result<LoadReport> {
        self.load(&Command::StopLoad)
    }

    /// Sends frames as they are.
    pub fn send_frames(&self, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
        self.done(&Command::SendFrames { interface: interface.to_owned(), frames: frames.to_vec() })
    }

    fn load(&self, command: &Command) -> Result<LoadReport> {
        let report = self.order(command)?;
        let Report::Load(report) = report else { return self.unexpected(&report) };
        Ok(report)
    }

    fn done(&self, command: &Command) -> Result<()> {
        let report = self.order(command)?;
        if matches!(report, Report::Done) { Ok(()) } else { self.unexpected(&report) }
    }

    fn unexpected<T>(&self, report: &Report) -> Result<T> {
        bail!("{} answered another order: {report:?}", self.name)
    }
}

/// A connection that a process holds open; closed when dropped.
#[derive(Debug)]
pub struct HeldConnection<'a> {
    probe: &'a Probe,
    held: u32,
}

impl HeldConnection<'_> {
    /// One request and what became of it.
    pub fn exchange(&self, timeout: Duration) -> Result<Outcome> {
        let report = self.probe.order(&Command::Exchange { held: self.held, timeout })?;
        let Report::Outcomes(mut outcomes) = report else { return self.probe.unexpected(&report) };
        outcomes.pop().context("one outcome for one request")
    }

    /// Sends what follows to another address; for UDP.
    pub fn redirect(&self, to: SocketAddr) -> Result<()> {
        self.probe.done(&Command::Redirect { held: self.held, to })
    }

    /// What `getpeername` says.
    pub fn peer_name(&self) -> Result<SocketAddr> {
        let report = self.probe.order(&Command::PeerName { held: self.held })?;
        let Report::Address(address) = report else { return self.probe.unexpected(&report) };
        Ok(address)
    }
}

impl Drop for HeldConnection<'_> {
    fn drop(&mut self) {
        // The process may be gone, and its connections with it.
        let _ = self.probe.order(&Command::Close { held: self.held });
    }
}
