//! Nodes that lack something, or have too much: the agent says what, and the rest goes on.
use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Node, ready::is_ready_pod},
};
use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use serde_json::json;

use crate::{
    own::alone,
    shared::{PATIENCE, wait_for_pod},
    stage::Stage,
};

/// The agent looks at the directory every ten seconds, the kubelet asks it as often.
const NOTICED: Duration = Duration::from_mins(1);

const OTHER: &str = r#"{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp", "ipam": {"type": "host-local",
"ranges": [[{"subnet": "10.9.0.0/24"}]]}}]}"#;

const NEWCOMER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: homeless}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: workload, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve, --tcp=80]}
";

#[test]
fn a_node_without_pod_cidr_is_told_what_it_lacks_and_pods_wait() -> Result<()> {
    alone(|cluster| {
        drop(Stage::set(cluster)?);
        let stage = Stage::set_on(cluster, "node-1")?;
        stage.begin()?;
        let node = cluster.node("node-2")?;
        let nodes = cluster.api().cluster_wide::<NodeObject>();
        let mut object = node.object();
        let spec = object.spec.take().context("a node has a spec")?;
        nodes.delete("node-2")?;
        nodes.create(&object)?;

        is_said(node, "it has no spec.podCIDRs")?;
        agent_is_ready(cluster, "node-2", false)?;
        cluster.api().apply_yaml(NEWCOMER)?;
        let message = eventually("an event says why the pod waits", PATIENCE, || {
            let events = cluster.api().namespaced::<Event>("default").list("")?;
            let of_pod =
                events.into_iter().filter(|event| event.involved_object.name.as_deref() == Some("homeless"));
            let mut messages = of_pod.filter_map(|event| event.message);
            messages.find(|message| message.contains("podCIDR")).context("no event names the field")
        })?;
        println!("a pod on a node without pod CIDRs: {message}");

        nodes
            .patch("node-2", &json!({ "spec": { "podCIDR": spec.pod_cidr, "podCIDRs": spec.pod_cidrs } }))?;
        wait_for_pod(cluster, "homeless")?;
        agent_is_ready(cluster, "node-2", true)?;
        stage.end("the other node meanwhile")?;
        cluster.api().delete_yaml(NEWCOMER)?;
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        stage.end("both nodes afterwards").map(drop)
    })
}

#[test]
fn configurations_of_another_cni_are_named() -> Result<()> {
    alone(|cluster| {
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        let node = cluster.node("node-2")?;
        let folder = node.root()?.join("etc/cni/net.d");

        let later = folder.join("10-other.conflist");
        fs::write(&later, OTHER).context("write a configuration")?;
        is_said(node, "10-other.conflist")?;
        agent_is_ready(cluster, "node-2", true)?;
        fs::remove_file(&later).context("remove a configuration")?;

        let earlier = folder.join("00-other.conflist");
        fs::write(&earlier, OTHER).context("write a configuration")?;
        is_said(node, "the container runtime uses /etc/cni/net.d/00-other.conflist and not Millrace")?;
        agent_is_ready(cluster, "node-2", false)?;
        fs::remove_file(&earlier).context("remove a configuration")?;
        agent_is_ready(cluster, "node-2", true)?;
        nothing_is_said(node)?;
        stage.end("configurations of another CNI").map(drop)
    })
}

fn problems(node: &Node) -> Result<String> {
    let status = node.millrace(&["status"])?;
    let problems = status["agent"]["problems"].as_array().with_context(|| format!("no status: {status}"))?;
    Ok(problems.iter().filter_map(|problem| problem.as_str()).collect::<Vec<_>>().join("\n"))
}

fn is_said(node: &Node, expected: &str) -> Result<()> {
    eventually(format!("the status of {} says {expected:?}", node.name()), NOTICED, || {
        let said = problems(node)?;
        ensure!(said.contains(expected), "{said:?}");
        Ok(())
    })
}

fn nothing_is_said(node: &Node) -> Result<()> {
    eventually(format!("the status of {} has no problem", node.name()), NOTICED, || {
        let said = problems(node)?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    })
}

/// Waits until the readiness probe of a node's agent says so.
fn agent_is_ready(cluster: &Cluster, node: &str, expected: bool) -> Result<()> {
    eventually(format!("the agent of {node} is {}ready", if expected { "" } else { "not " }), NOTICED, || {
        let agents = cluster.agents()?;
        let agent: &Pod = agents.get(node).context("it has none")?;
        ensure!(is_ready_pod(agent) == expected, "it is not so");
        Ok(())
    })
}
