//! A node loses its power and comes back.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, inventory::Inventory, ready::is_ready_pod},
};
use k8s_openapi::api::core::v1::Pod;

use crate::{own::alone, shared::PATIENCE, stage::Stage};

/// The agent compares its leases with the interfaces every half minute.
const SWEPT: Duration = Duration::from_secs(75);

#[test]
fn a_node_that_lost_its_power_comes_back_and_the_other_one_goes_on() -> Result<()> {
    alone(|cluster| {
        drop(Stage::set(cluster)?);
        let node = cluster.node("node-1")?;
        let before = Inventory::of_settled(node)?;
        let earlier = containers(cluster, "node-1")?;

        let other = Stage::set_on(cluster, "node-2")?;
        other.begin()?;
        let switched_off = Instant::now();
        cluster.power_off(node)?;
        other.goes_on()?;
        cluster.power_on(node)?;
        // The same pods: everything in them is new.
        eventually("the pods of node-1 are ready again", 2 * PATIENCE, || {
            let now = containers(cluster, "node-1")?;
            ensure!(now.len() == earlier.len(), "{:?}, and before {:?}", now.keys(), earlier.keys());
            for (pod, (container, is_ready)) in &now {
                ensure!(*is_ready, "{pod} is not ready");
                ensure!(earlier[pod].0 != *container, "{pod} has its earlier container");
            }
            Ok(())
        })?;
        println!(
            "node-1 off and on: all its {} pods ready after {:.1?}",
            earlier.len(),
            switched_off.elapsed()
        );
        other.end("the other node meanwhile")?;

        let stage = Stage::set(cluster)?;
        stage.begin()?;
        stage.end("both nodes afterwards")?;

        eventually("nothing of before the restart is left", SWEPT, || {
            let now = Inventory::take(node)?;
            now.check()?;
            ensure!(
                now.leases.len() == before.leases.len(),
                "leases {:?}, before {:?}",
                now.leases,
                before.leases
            );
            ensure!(
                now.map_entries == before.map_entries,
                "{:?}, before {:?}",
                now.map_entries,
                before.map_entries
            );
            ensure!(now.pins.len() == before.pins.len(), "pins {:?}, before {:?}", now.pins, before.pins);
            let aside = now.files.difference(&before.files).collect::<Vec<_>>();
            ensure!(aside.is_empty(), "files that were not there before: {aside:?}");
            Ok(())
        })
    })
}

/// The pods of a node: their container, and whether they are ready.
fn containers(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, (String, bool)>> {
    let mut found = BTreeMap::new();
    for namespace in ["default", "kube-system"] {
        for pod in cluster.api().namespaced::<Pod>(namespace).list("")? {
            if pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node)) {
                let name = pod.metadata.name.clone().context("a pod has a name")?;
                found.insert(name, (container(&pod).unwrap_or_default(), is_ready_pod(&pod)));
            }
        }
    }
    Ok(found)
}

fn container(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.container_id.clone()
}
