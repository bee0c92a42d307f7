//! B17: the agent is killed, and replaced, while a client connects without a pause.
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::topology::Node;
use serde_json::json;

use crate::{
    bench::Bench,
    load::wire::{Order, Slice, Targets},
    report::{Target, Unit},
    rounds::{Contender, Reading},
    station::Station,
    system::{Kind, services::ServiceSet},
};

const CASE: &str = "B17";
const FAILED: &str = "failed connections";
const P99: &str = "p99";
/// A restart must fit into a slice.
const LEAST: Duration = Duration::from_secs(1);

fn reading(slice: &Slice) -> Reading {
    let failed = f64::from(u32::try_from(slice.failed).unwrap_or(u32::MAX));
    let values = [(FAILED, failed), (P99, f64::from(slice.latency.p99) / 1e3)];
    Reading { values: values.into(), detail: json!(slice) }
}

/// A slice of load during which something happens to the node.
fn during(station: &Station, order: &Order, happen: impl FnOnce(&Node) -> Result<()>) -> Result<Reading> {
    let millrace = station.system().as_millrace().context("Millrace is Millrace")?;
    let mut client = station.client();
    client.send(order)?;
    happen(millrace.node_of())?;
    Ok(reading(&client.sliced()?))
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.has(Kind::Millrace) {
        return Ok(());
    }
    let services = bench.smallest();
    let station = bench.station(Bench::setup(Kind::Millrace, services))?;
    let count = u32::try_from(services).context("few services")?;
    let targets = Targets::Range { first: ServiceSet::frontend(0), count };
    let order = Order::Connections { targets, lasting: bench.options.lasting().max(LEAST) };
    let (station, order) = (&*station, &order);
    let contenders = vec![
        Contender::new("steady", move || during(station, order, |_| Ok(()))),
        Contender::new("killed", move || {
            during(station, order, |node| {
                node.kill_agent()?;
                node.start_agent()
            })
        }),
        Contender::new("replaced", move || {
            during(station, order, |node| {
                node.stop_agent()?;
                node.start_agent()
            })
        }),
    ];
    let rounds = bench.rounds("restarts under load", contenders)?;
    for of in ["killed", "replaced"] {
        bench.report.value(CASE, &rounds, (FAILED, Unit::Count), of, Some(Target::AtMost(0.0)));
        bench.report.ratio(CASE, &rounds, P99, (of, "steady"), Some(Target::AtMost(1.5)));
        let failed = rounds.value(FAILED, of).map(|spread| spread.most);
        bench
            .report
            .expect(failed == Some(0.0), || format!("{CASE}: {failed:?} connections failed, agent {of}"));
    }
    Ok(())
}
