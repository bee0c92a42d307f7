//! B14: what CNI ADD takes: one after the other, and many at once.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use harness::{
    cluster::PodSpec,
    topology::{Node, Pod},
};
use serde_json::json;

use crate::{
    bench::Bench,
    interrupt,
    measure::statistics::Spread,
    report::{Target, Unit},
    system::{Kind, services::NAMESPACE},
};

const CASE: &str = "B14";

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.has(Kind::Millrace) {
        return Ok(());
    }
    // An address is not given again for a while, and a node's /24 has 253 of them: together these are fewer.
    let (in_turn, at_once) = if bench.options.quick { (20, 10) } else { (100, 100) };
    // Every namespace that exists takes part in making another interface, with all its rules.
    let setup = Bench::setup(Kind::Millrace, bench.smallest());
    bench.retain(|other| *other == setup);
    let station = bench.station(setup)?;
    let millrace = station.system().as_millrace().context("Millrace is Millrace")?;
    let (topology, node) = (millrace.topology(), millrace.node_of());
    let pods: Vec<Arc<Pod>> = (0..at_once)
        .map(|number| topology.prepare_pod(PodSpec::new(NAMESPACE, &format!("add{number}"))))
        .collect::<Result<_>>()?;
    topology.settle()?;

    let mut sequential = Vec::new();
    for number in 0..in_turn {
        interrupt::check()?;
        let pod = &pods[number % pods.len()];
        sequential.push(add(node, pod)?);
        delete(node, pod)?;
    }
    interrupt::check()?;
    let added: Vec<Result<Duration>> = std::thread::scope(|scope| {
        let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(node, pod))).collect();
        calls.into_iter().map(|call| call.join().expect("adds without panic")).collect()
    });
    let parallel = added.into_iter().collect::<Result<Vec<_>>>()?;
    pods.iter().try_for_each(|pod| delete(node, pod))?;
    for pod in &pods {
        // Detached already; its namespace, its process and its object go.
        topology.delete_pod(pod.namespace(), pod.name())?;
    }
    let sequential: Vec<f64> = sequential.iter().map(milliseconds).collect();
    let parallel: Vec<f64> = parallel.iter().map(milliseconds).collect();
    bench
        .raw
        .note(&json!({ "measurement": "CNI ADD", "sequential ms": sequential, "parallel ms": parallel }))?;
    for (what, samples, percent, target) in [
        ("ADD, one after the other, p50".to_owned(), &sequential, 50.0, Some(4.0)),
        ("ADD, one after the other, p99".to_owned(), &sequential, 99.0, Some(15.0)),
        (format!("ADD, {at_once} at once, p50"), &parallel, 50.0, None),
        (format!("ADD, {at_once} at once, p99"), &parallel, 99.0, Some(100.0)),
    ] {
        let measured = Spread::of_percentile(samples, percent);
        bench.report.samples(
            CASE,
            what,
            Unit::Milliseconds,
            measured,
            (samples.len(), target.map(Target::AtMost)),
        );
    }
    Ok(())
}

/// The time of the call as a runtime sees it: start of the plugin to its end.
fn add(node: &Node, pod: &Pod) -> Result<Duration> {
    let call = pod.cni_call(node, "ADD");
    let begun = Instant::now();
    let added = node.cni(&call)?;
    let took = begun.elapsed();
    added.with_context(|| format!("attach {}", pod.name()))?;
    Ok(took)
}

fn delete(node: &Node, pod: &Pod) -> Result<()> {
    let deleted = node.cni(&pod.cni_call(node, "DEL"))?;
    deleted.map(drop).with_context(|| format!("detach {}", pod.name()))
}

fn milliseconds(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
