//! B10: how long a change of a policy takes until packets obey it, in a cluster full of policies; and what the agent
//! takes there (B13).
use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::eventually::eventually;
use serde_json::{Value, json};

use crate::{
    bench::Bench,
    interrupt,
    load::{client::monotonic, wire::Order},
    measure::statistics::Spread,
    report::{Target, Unit},
    station::Station,
    system::{
        Kind, Setup,
        millrace::Millrace,
        objects::{self, group, ingress_policy},
        services::SINGLE_SERVER_PORT,
    },
};

const CASE: &str = "B10";
/// Objects per file.
const CHUNK: usize = 1000;
/// One policy in so many selects pods of this node.
const LOCAL: usize = 100;
/// How long the whole cluster may take to be read.
const LOADING: Duration = Duration::from_mins(5);
/// A change that is not in force by then never will be.
const PATIENCE: Duration = Duration::from_secs(20);
/// The policy that changes.
const GATE: &str = "gate";

/// Policies, pods with labels of their own, and changes.
const fn sizes(quick: bool) -> (usize, usize, usize) {
    if quick { (300, 60, 10) } else { (30_000, 6_000, 400) }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.has(Kind::Millrace) {
        return Ok(());
    }
    let (policies, pods, changes) = sizes(bench.options.quick);
    let setup = Setup { policy_peers: None, ..Bench::setup(Kind::Millrace, bench.smallest()) };
    let station = Station::build(setup)?;
    let millrace = station.system().as_millrace().context("Millrace is Millrace")?;
    fill(millrace, policies, pods)?;

    let target = SocketAddrV4::new(station.system().server_addr(0), SINGLE_SERVER_PORT);
    let (mut allowed, mut denied) = (Vec::new(), Vec::new());
    // The first change is a warm-up.
    for change in 0..=changes {
        interrupt::check()?;
        let allow = change % 2 == 0;
        let order = if allow {
            Order::Knock { target, patience: PATIENCE }
        } else {
            Order::KnockUntilSilent { target, patience: PATIENCE }
        };
        let begun = monotonic()?;
        millrace.write_file("gate.yaml", &[gate(allow)])?;
        let mut client = station.client();
        client.send(&order)?;
        let obeyed = client.obeyed()?;
        let took = Duration::from_nanos(obeyed.saturating_sub(begun)).as_secs_f64() * 1e3;
        match (change, allow) {
            (0, _) => {}
            (_, true) => allowed.push(took),
            (_, false) => denied.push(took),
        }
    }
    bench.raw.note(&json!({
        "measurement": "policy changes", "policies": policies, "pods": pods,
        "until allowed, ms": allowed, "until denied, ms": denied,
    }))?;
    report(bench, millrace, (policies, pods), &allowed, &denied)
}

fn report(
    bench: &mut Bench<'_>,
    millrace: &Millrace,
    (policies, pods): (usize, usize),
    allowed: &[f64],
    denied: &[f64],
) -> Result<()> {
    let all = [allowed, denied].concat();
    let what = |what: &str| format!("{what}, {policies} policies, {pods} pods with labels of their own");
    for (name, samples, percent, target) in [
        ("change to first packet that obeys, p50", &all[..], 50.0, Some(2.0)),
        ("change to first packet that obeys, p99", &all[..], 99.0, Some(20.0)),
        ("until allowed, p50", allowed, 50.0, None),
        ("until denied, p50", denied, 50.0, None),
    ] {
        let measured = Spread::of_percentile(samples, percent);
        let basis = (samples.len(), target.map(Target::AtMost));
        bench.report.samples(CASE, what(name), Unit::Milliseconds, measured, basis);
    }
    let status = millrace.node_of().status()?;
    for (percentile, microseconds) in ["p50", "p99"].iter().zip(status.programming_us) {
        let milliseconds = Spread::exactly(f64::from(u32::try_from(microseconds)?) / 1e3);
        let name = what(&format!("of that, source's event to maps, {percentile}"));
        bench.report.samples(CASE, name, Unit::Milliseconds, milliseconds, (all.len(), None));
    }
    let (rss, _) = crate::measure::memory::of_process(status.pid)?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of a machine")]
    let rss = rss as f64 / f64::from(1 << 20);
    let target = (!bench.options.quick).then_some(Target::AtMost(250.0));
    bench.report.samples("B13", what("RSS: millrace"), Unit::Mebibytes, Spread::exactly(rss), (1, target));
    Ok(())
}

/// Lets the client into the servers, or nobody.
fn gate(allow: bool) -> Value {
    let from = if allow { "client" } else { "nobody" };
    ingress_policy(GATE, ("app", "server"), ("app", from))
}

/// A cluster in which most policies are about pods of other nodes, and some about the servers.
fn fill(millrace: &Millrace, policies: usize, pods: usize) -> Result<()> {
    millrace.write_file("gate.yaml", &[gate(false)])?;
    let remote: Vec<Value> = (0..pods).map(objects::remote_pod).collect();
    for (number, chunk) in remote.chunks(CHUNK).enumerate() {
        millrace.write_file(&format!("remote-{number:04}.yaml"), chunk)?;
    }
    let all: Vec<Value> = (0..policies)
        .map(|number| {
            let (own, peer) = (group(number % pods), group((number * 7 + 1) % pods));
            let into = if number % LOCAL == 0 { ("app", "server") } else { ("group", own.as_str()) };
            ingress_policy(&format!("policy-{number:05}"), into, ("group", &peer))
        })
        .collect();
    for (number, chunk) in all.chunks(CHUNK).enumerate() {
        millrace.write_file(&format!("policies-{number:04}.yaml"), chunk)?;
    }
    eventually(format!("{policies} policies are known"), LOADING, || {
        let known = millrace.node_of().status()?.policies;
        ensure!(known > policies as u64, "{known} are");
        Ok(())
    })?;
    millrace.topology().settle()
}
