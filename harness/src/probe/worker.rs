//! What carries out orders: servers, probes, connections and loads of one process.
use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
    net::ToSocketAddrs as _,
    time::Duration,
};

use super::{
    connect, dns,
    frames::send_frames,
    held::Held,
    load::Load,
    serve::Server,
    watch::Watching,
    wire::{Command, Outcome, Report, Target, Transport},
};

/// Carries out the orders of `input`, one a line, and answers each with a line of `output`, until one of them ends. Its
/// servers go on until `afterwards` returns.
pub fn obey(name: &str, input: impl BufRead, mut output: impl Write, afterwards: impl FnOnce()) {
    let mut worker = Worker::new(name.to_owned());
    for line in input.lines() {
        let report = match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(command)) => worker.obey(command),
            Ok(Err(error)) => Report::Failed(format!("not an order: {error}")),
            Err(error) => Report::Failed(format!("read an order: {error}")),
        };
        if write_line(&mut output, &report).is_err() {
            break;
        }
    }
    afterwards();
}

fn write_line(output: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report).expect("reports are plain data");
    line.push('\n');
    output.write_all(line.as_bytes())?;
    output.flush()
}

struct Worker {
    name: String,
    servers: BTreeMap<(Transport, u16), Server>,
    held: Held,
    load: Option<Load>,
    watch: Option<Watching>,
}

impl Worker {
    fn new(name: String) -> Self {
        Self { name, servers: BTreeMap::new(), held: Held::default(), load: None, watch: None }
    }

    fn obey(&mut self, command: Command) -> Report {
        match command {
            Command::Listen { transport, port } => match Server::start(&self.name, transport, port) {
                Ok(server) => {
                    self.servers.insert((transport, port), server);
                    Report::Done
                }
                Err(error) => Report::Failed(format!("listen on {transport:?} {port}: {error}")),
            },
            Command::Unlisten { transport, port } => {
                self.servers.remove(&(transport, port));
                Report::Done
            }
            Command::Served { transport, port } => match self.servers.get(&(transport, port)) {
                Some(server) => Report::Count(server.served()),
                None => Report::Failed(format!("nothing serves {transport:?} {port}")),
            },
            Command::Probe { targets, timeout } => Report::Outcomes(probe_all(&targets, timeout)),
            Command::LookUp(question) => match dns::look_up(&question) {
                Ok(addresses) => Report::Addresses(addresses),
                Err(error) => Report::Outcomes(vec![connect::failure(&error)]),
            },
            Command::Resolve { name } => match (name.as_str(), 0).to_socket_addrs() {
                Ok(found) => Report::Addresses(found.map(|address| address.ip()).collect()),
                Err(error) => Report::Failed(format!("look up {name}: {error}")),
            },
            Command::Watch(watch) => {
                self.watch = Some(Watching::start(watch));
                Report::Done
            }
            Command::Watched => match self.watch.take().map(Watching::end) {
                Some(Ok(at)) => Report::Seen { at },
                Some(Err(problem)) => Report::Failed(problem),
                None => Report::Failed("nothing is watched".to_owned()),
            },
            Command::Open { target, timeout } => {
                let (held, outcome) = self.held.open(target, timeout);
                Report::Opened { held, outcome }
            }
            Command::Exchange { held, timeout } => Report::Outcomes(vec![self.held.exchange(held, timeout)]),
            Command::PeerName { held } => match self.held.peer_name(held) {
                Ok(address) => Report::Address(address),
                Err(error) => Report::Failed(format!("getpeername: {error}")),
            },
            Command::Redirect { held, to } => match self.held.redirect(held, to) {
                Ok(()) => Report::Done,
                Err(error) => Report::Failed(format!("send to {to}: {error}")),
            },
            Command::Churn { to, sockets } => match connect::churn(to, sockets) {
                Ok(()) => Report::Done,
                Err(error) => Report::Failed(format!("{sockets} sockets to {to}: {error}")),
            },
            Command::Close { held } => {
                self.held.close(held);
                Report::Done
            }
            Command::StartLoad(plan) => self.begin(|| Load::start(&plan)),
            Command::Flood { targets, interval } => self.begin(|| Load::flood(targets, interval)),
            Command::LoadSoFar => match &self.load {
                Some(load) => Report::Load(load.so_far()),
                None => Report::Failed("no load runs".to_owned()),
            },
            Command::StopLoad => match self.load.take() {
                Some(load) => Report::Load(load.stop()),
                None => Report::Failed("no load runs".to_owned()),
            },
            Command::SendFrames { interface, frames } => match send_frames(&interface, &frames) {
                Ok(()) => Report::Done,
                Err(error) => Report::Failed(format!("send frames out of {interface}: {error}")),
            },
        }
    }

    fn begin(&mut self, load: impl FnOnce() -> Load) -> Report {
        if self.load.is_some() {
            return Report::Failed("a load runs already".to_owned());
        }
        self.load = Some(load());
        Report::Done
    }
}

/// All targets at once, so that time-outs pass together.
fn probe_all(targets: &[Target], timeout: Duration) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let probes: Vec<_> =
            targets.iter().map(|target| scope.spawn(move || connect::probe(*target, timeout))).collect();
        let panicked = |_| Outcome::Failed("the probe panicked".to_owned());
        probes.into_iter().map(|probe| probe.join().unwrap_or_else(panicked)).collect()
    })
}
