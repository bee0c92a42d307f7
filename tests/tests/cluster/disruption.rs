//! Parts of a cluster end and come back; what depends on them waits, and goes on.
use anyhow::{Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Iptables, Network, Options, Proxy, down, guard::Guard},
};
use k8s_openapi::api::core::v1 as core;

use crate::shared::{PATIENCE, own_name, run_pod, wait_for_pod};

fn is_ready(node: &core::Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn restarts(pod: &core::Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

#[test]
fn every_part_of_a_cluster_can_end_and_come_back() -> Result<()> {
    let name = own_name("part");
    let _guard = Guard::set(&name)?;
    let options = Options {
        nodes: 1,
        proxy: Proxy::Iptables(Iptables::Legacy),
        network: Network::Ptp,
        ..Options::default()
    };
    let cluster = Cluster::up(&name, &options, &|_| ())?;
    let node = cluster.node("node-1")?;
    run_pod(&cluster, "first", "node-1")?;
    let pods = cluster.api().namespaced::<core::Pod>("default");
    let before = pods.get("first")?;

    cluster.plane().component("kube-apiserver").kill()?;
    ensure!(cluster.api().ready().is_err(), "the API answers without its server");
    cluster.plane().start_api_server()?;
    cluster.plane().wait_for_api()?;

    node.component("kubelet").kill()?;
    node.component("containerd").kill()?;
    node.start_containerd()?;
    node.start_kubelet()?;
    // Containers outlive their runtime.
    run_pod(&cluster, "second", "node-1")?;
    let after = wait_for_pod(&cluster, "first")?;
    ensure!(
        after.metadata.uid == before.metadata.uid && restarts(&after) == 0,
        "the first pod was restarted"
    );

    cluster.power_off(node)?;
    let nodes = cluster.api().cluster_wide::<core::Node>();
    nodes.wait("node-1", "is not ready", PATIENCE, |node| !is_ready(node))?;
    cluster.power_on(node)?;
    cluster.wait_for_node("node-1")?;
    eventually("the first pod runs again", PATIENCE, || {
        let pod = wait_for_pod(&cluster, "first")?;
        ensure!(restarts(&pod) == 1, "{} restarts", restarts(&pod));
        Ok(())
    })?;

    cluster.down()?;
    let left = down::leftovers(&name)?;
    ensure!(left.is_empty(), "left: {left:#?}");
    Ok(())
}
