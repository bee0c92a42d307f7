//! Many pods come and go: nothing of them is left.
use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, inventory::Inventory, metrics::Calls},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::{own::alone, stage::Stage};

/// How many pods come and go, if the environment says nothing else.
const PODS: usize = 100;

/// Where it says something else.
const PODS_VARIABLE: &str = "MILLRACE_TEST_PODS";

/// So many at once.
const WAVE: usize = 50;

/// How long a wave may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// What DEL could not tell an agent is found out within a minute.
const SETTLED: Duration = Duration::from_secs(75);

/// Open files of an agent that come and go.
const PASSING: usize = 4;

const LABEL: &str = "scale=wave";

#[test]
fn waves_of_pods_leave_nothing_behind() -> Result<()> {
    let pods = match std::env::var(PODS_VARIABLE) {
        Ok(number) => number.parse().with_context(|| format!("{PODS_VARIABLE}={number}"))?,
        Err(_) => PODS,
    };
    alone(|cluster| {
        // Pods that stay.
        drop(Stage::set(cluster)?);
        let nodes = cluster.nodes();
        let before: Vec<Inventory> = nodes.iter().map(Inventory::of_settled).collect::<Result<_>>()?;
        let open_before = open_files(cluster)?;
        let calls_before = calls(cluster)?;
        let begun = Instant::now();

        let mut made = 0;
        while made < pods {
            let wave = made..pods.min(made + WAVE);
            let came = Instant::now();
            wave.clone().try_for_each(|number| make(cluster, number))?;
            kubectl(cluster, &["wait", "--for=condition=Ready", "pod", "--selector", LABEL])?;
            let came = came.elapsed();
            for node in nodes {
                Inventory::of_settled(node)?;
            }
            let went = Instant::now();
            kubectl(cluster, &["delete", "pod", "--wait", "--selector", LABEL])?;
            println!("pods {wave:?}: all ready after {came:.1?}, all gone after {:.1?}", went.elapsed());
            made = wave.end;
        }

        let took = begun.elapsed();
        let [(added, deleted), (adds_before, dels_before)] = [calls(cluster)?, calls_before];
        let (added, deleted) = (added.since(adds_before), deleted.since(dels_before));
        println!(
            "{made} pods in {took:.0?}; mean of {} ADD {:.1?}, of {} DEL {:.1?}, loopback included",
            added.count,
            added.mean(),
            deleted.count,
            deleted.mean()
        );
        let counted = usize::try_from(added.count).context("a number of calls")?;
        ensure!(counted >= made, "the runtime counts {counted} calls of ADD for {made} pods");

        for (node, before) in nodes.iter().zip(&before) {
            eventually(format!("{} is as before", node.name()), SETTLED, || {
                let now = Inventory::take(node)?;
                if now == *before {
                    return Ok(());
                }
                bail!("left: {:#?}; missing: {:#?}", now.beyond(before), before.beyond(&now))
            })?;
        }
        // Connections to the API server and of probes come and go; a leak is one file for each pod.
        eventually("the agents have no more open files than before", SETTLED, || {
            let now = open_files(cluster)?;
            ensure!(
                now.iter().zip(&open_before).all(|(now, before)| *now <= before + PASSING),
                "{now:?}, before {open_before:?}"
            );
            Ok(())
        })
    })
}

/// Makes a pod, on the nodes in turn.
fn make(cluster: &Cluster, number: usize) -> Result<()> {
    let node = cluster.nodes()[number % cluster.nodes().len()].name();
    let pod = json!({
        "metadata": { "name": format!("wave-{number}"), "labels": { "scale": "wave" } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "containers": [{
                "name": "pause",
                "image": "localhost/millrace/workload:test",
                "imagePullPolicy": "Never",
                "args": ["pause"],
            }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).context("a pod")?;
    cluster.api().namespaced::<Pod>("default").create(&pod).map(drop)
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let mut kubectl = cluster.kubectl()?;
    kubectl.args(arguments).arg(format!("--timeout={}s", PATIENCE.as_secs()));
    let output = kubectl.output().context("run kubectl")?;
    ensure!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Calls of ADD and of DEL, of all nodes.
fn calls(cluster: &Cluster) -> Result<(Calls, Calls)> {
    cluster.nodes().iter().try_fold((Calls::default(), Calls::default()), |(added, deleted), node| {
        let more = cluster.plugin_calls(node, "set_up_pod")?;
        Ok((added.and(more), deleted.and(cluster.plugin_calls(node, "tear_down_pod")?)))
    })
}

/// How many files each agent has open.
fn open_files(cluster: &Cluster) -> Result<Vec<usize>> {
    let agents = cluster.agents()?;
    let count = |agent| {
        let folder = format!("/proc/{}/fd", cluster.process_of(agent)?);
        Ok(fs::read_dir(&folder).with_context(|| format!("read {folder}"))?.count())
    };
    agents.values().map(count).collect()
}
