//! Serves and probes from inside a pod, as ordered on standard input. Ends with its input.
//!
//! `netprobe NAME RUN [--outlive]`: NAME is what its servers answer; RUN marks the process as part of a test run;
//! with `--outlive` it goes on serving when its input ends.
use std::{
    collections::BTreeMap,
    io::{BufRead as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use millrace_tests::probe::{
    connect,
    frames::send_frames,
    held::Held,
    load::Load,
    serve::Server,
    wire::{Command, Outcome, Report, Target, Transport},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, _, options @ ..] = &arguments[..] else {
        eprintln!("usage: netprobe NAME RUN [--outlive]");
        return ExitCode::from(2);
    };
    let mut probe = NetProbe::new(name.clone());
    for line in std::io::stdin().lock().lines() {
        let report = match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(command)) => probe.obey(command),
            Ok(Err(error)) => Report::Failed(format!("not an order: {error}")),
            Err(error) => Report::Failed(format!("read an order: {error}")),
        };
        let mut line = serde_json::to_string(&report).expect("reports are plain data");
        line.push('\n');
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            break;
        }
    }
    while options.iter().any(|option| option == "--outlive") {
        std::thread::sleep(Duration::from_hours(1));
    }
    ExitCode::SUCCESS
}

struct NetProbe {
    name: String,
    servers: BTreeMap<(Transport, u16), Server>,
    held: Held,
    load: Option<Load>,
}

impl NetProbe {
    fn new(name: String) -> Self {
        Self { name, servers: BTreeMap::new(), held: Held::default(), load: None }
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
            Command::Open { target, timeout } => {
                let (held, outcome) = self.held.open(target, timeout);
                Report::Opened { held, outcome }
            }
            Command::Exchange { held, timeout } => Report::Outcomes(vec![self.held.exchange(held, timeout)]),
            Command::PeerName { held } => match self.held.peer_name(held) {
                Ok(address) => Report::Address(address),
                Err(error) => Report::Failed(format!("getpeername: {error}")),
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
