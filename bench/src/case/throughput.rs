//! B19: throughput by iperf3, and HTTP requests by wrk: other people's load generators.
use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::{PATIENCE, eventually},
    machine::process::{Place, Process},
};
use serde_json::{Value, json};

use crate::{
    bench::Bench,
    measure::cpu::MEASURED,
    report::{Target, Unit},
    rounds::{Contender, Reading},
    station::Station,
    system::Kind,
};

const CASE: &str = "B19";
const THROUGHPUT: &str = "throughput";
const REQUESTS: &str = "HTTP requests";
const PORT: &str = "5201";
/// No measurement lasts longer.
const SERVING: Duration = Duration::from_hours(24);
/// What starting and ending takes a program.
const GRACE: Duration = Duration::from_secs(10);

/// A program on the measured CPU, for so long at most. Not real-time: these programs look again and again whether they
/// can go on, and with a real-time priority nobody else would ever let them.
fn measured(program: &str, most: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg(most.as_secs().to_string());
    command.args(["nice", "-n", "-20", "taskset", "-c", &MEASURED.to_string(), program]);
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end and returns what it printed.
fn output(mut command: Command, place: Place<'_>, what: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Process::spawn(command, place)?.finish(&[])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{what}: {}{text}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn iperf3_server(place: Place<'_>, addr: Ipv4Addr) -> Result<Process> {
    let mut command = measured("iperf3", SERVING);
    command.args(["--server", "--bind", &addr.to_string(), "--port", PORT]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(command, place)
}

fn iperf3(station: &Station, lasting: Duration) -> Result<Reading> {
    let system = station.system();
    let mut command = measured("iperf3", lasting + GRACE);
    command.args(["--client", &system.server_addr(0).to_string(), "--port", PORT, "--json"]);
    command.args(["--time", &lasting.as_secs().max(1).to_string()]);
    let text = output(command, system.client(), "iperf3")?;
    let result: Value = serde_json::from_str(&text).context("iperf3 printed no JSON")?;
    let received = &result["end"]["sum_received"]["bits_per_second"];
    let rate =
        received.as_f64().with_context(|| format!("iperf3 tells no throughput: {}", result["error"]))?;
    let detail = json!({ "sent": result["end"]["sum_sent"], "received": result["end"]["sum_received"] });
    Ok(Reading { values: [(THROUGHPUT, rate / 1e9)].into(), detail })
}

fn wrk(station: &Station, lasting: Duration) -> Result<Reading> {
    let system = station.system();
    let mut command = measured("wrk", lasting + GRACE);
    command.args(["--threads", "1", "--connections", "8", "--duration"]);
    command.arg(format!("{}s", lasting.as_secs().max(1)));
    command.arg(format!("http://{}/", system.target(0)));
    let text = output(command, system.client(), "wrk")?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)).map(|rest| rest.trim().to_owned())
    };
    let rate = field("Requests/sec:").and_then(|rate| rate.parse().ok());
    let rate = rate.with_context(|| format!("wrk tells no rate: {text}"))?;
    let errors = field("Socket errors:").or_else(|| field("Non-2xx or 3xx responses:"));
    ensure!(errors.is_none(), "wrk: requests failed: {}", errors.unwrap_or_default());
    Ok(Reading { values: [(REQUESTS, rate)].into(), detail: json!({ "wrk": text }) })
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let (services, lasting) = (bench.smallest(), bench.options.lasting());
    let mut stations: Vec<(Kind, Rc<Station>)> = Vec::new();
    for kind in bench.kinds.clone() {
        stations.push((kind, bench.station(Bench::setup(kind, services))?));
    }
    let servers = stations
        .iter()
        .map(|(_, station)| iperf3_server(station.system().server(0), station.system().server_addr(0)))
        .collect::<Result<Vec<_>>>()?;
    for (kind, station) in &stations {
        let listening = || iperf3(station, Duration::ZERO).map(drop);
        eventually(format!("iperf3 serves behind {kind}"), PATIENCE, listening)?;
    }
    let contenders =
        stations.iter().map(|(kind, station)| Contender::new(kind.name(), move || iperf3(station, lasting)));
    let contenders = contenders.collect();
    let throughput = bench.rounds("throughput", contenders)?;
    drop(servers);
    let contenders =
        stations.iter().map(|(kind, station)| Contender::new(kind.name(), move || wrk(station, lasting)));
    let contenders = contenders.collect();
    let requests = bench.rounds("HTTP requests", contenders)?;
    let millrace = Kind::Millrace.name();
    for kind in bench.kinds.clone() {
        let (of, report) = (kind.name(), &mut bench.report);
        report.value(CASE, &throughput, (THROUGHPUT, Unit::GigabitsPerSecond), of, None);
        report.value(CASE, &requests, (REQUESTS, Unit::PerSecond), of, None);
        if !matches!(kind, Kind::Millrace | Kind::Loopback) {
            let target = Some(Target::AtLeast(0.98));
            report.ratio(CASE, &throughput, THROUGHPUT, (millrace, of), target);
            report.ratio(CASE, &requests, REQUESTS, (millrace, of), None);
        }
    }
    Ok(())
}
