//! The agent goes, stays away, comes in another version: whoever uses the network does not notice.
use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{
        Cluster,
        millrace::{Agents, NAME, NAMESPACE},
    },
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Event, Node as NodeObject, Pod},
};
use serde_json::json;

use crate::{
    own::alone,
    shared::{PATIENCE, wait_for_pod},
    stage::{Stage, address},
};

/// A label that no node has.
const NOWHERE: &str = "millrace.io/absent";

/// Long enough for every kubelet to notice.
const AWAY: Duration = Duration::from_secs(15);

/// On a node, whatever the scheduler thinks of it.
const NEWCOMER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: newcomer}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: workload, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve, --tcp=80]}
";

#[test]
fn a_deleted_agent_is_missed_by_nobody() -> Result<()> {
    alone(|cluster| {
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        let agents = cluster.agents()?;
        let deleted = Instant::now();
        for agent in agents.values() {
            let name = agent.metadata.name.as_deref().context("a pod has a name")?;
            cluster.api().namespaced::<Pod>(NAMESPACE).delete(name)?;
        }
        cluster.wait_for_other_agents(&agents)?;
        println!("all agents deleted at once; others ready after {:.1?}", deleted.elapsed());
        stage.end("agents deleted").map(drop)
    })
}

#[test]
fn an_upgrade_and_its_undo_are_noticed_by_nobody() -> Result<()> {
    alone(|cluster| {
        let [old, new] = [image_of(cluster)?, "localhost/millrace/millrace:next".to_owned()];
        for node in cluster.nodes() {
            let mut tag = Command::new("ctr");
            tag.args(["--namespace", "k8s.io", "images", "tag", "--force", &old, &new]);
            let output = node.run(tag)?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        let set = format!("daemonset/{NAME}");
        let agents = cluster.agents()?;
        let images = ["agent", "install-cni"].map(|container| format!("{container}={new}"));
        let agents = rolled(cluster, &agents, &["set", "image", &set, &images[0], &images[1]])?;
        run_image(&agents, &new)?;
        stage.goes_on()?;
        let agents = rolled(cluster, &agents, &["rollout", "undo", &set])?;
        run_image(&agents, &old)?;
        stage.end("upgrade and undo").map(drop)
    })
}

#[test]
fn while_the_agent_is_away_a_new_pod_waits_and_the_others_go_on() -> Result<()> {
    alone(|cluster| {
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        let agents = cluster.agents()?;
        let ready_since = ready_since(cluster)?;
        let away = Instant::now();
        choose_nodes(cluster, Some("yes"))?;
        eventually("no agent is left", PATIENCE, || {
            let left = cluster.agents()?;
            ensure!(left.is_empty(), "on {:?}", left.keys());
            Ok(())
        })?;
        let result = a_new_pod_waits(cluster).and_then(|()| {
            // The kubelets ask the plugin every five seconds.
            while away.elapsed() < AWAY {
                stage.goes_on()?;
            }
            Ok(())
        });
        choose_nodes(cluster, None)?;
        result?;
        cluster.wait_for_other_agents(&agents)?;
        println!("agents away for {:.1?}", away.elapsed());
        // The pods of a node that is not ready are taken out of every service, and evicted later.
        let now = self::ready_since(cluster)?;
        ensure!(now == ready_since, "nodes were not ready meanwhile: since {now:?}, before {ready_since:?}");
        let pod = wait_for_pod(cluster, "newcomer")?;
        ensure!(address(&pod).is_some(), "it has no address");
        stage.end("agents away")?;
        cluster.api().delete_yaml(NEWCOMER)?;
        cluster.api().namespaced::<Pod>("default").wait_gone("newcomer", PATIENCE)
    })
}

/// Makes a pod, and waits until the runtime was told to try again later.
fn a_new_pod_waits(cluster: &Cluster) -> Result<()> {
    cluster.api().apply_yaml(NEWCOMER)?;
    let message = eventually("an event says why the pod waits", PATIENCE, || {
        let events = cluster.api().namespaced::<Event>("default").list("")?;
        let of_pod = events.into_iter().filter(|event| {
            event.involved_object.name.as_deref() == Some("newcomer")
                && event.reason.as_deref() == Some("FailedCreatePodSandBox")
        });
        let mut messages = of_pod.filter_map(|event| event.message);
        messages.next().context("there is no such event")
    })?;
    println!("a pod made without an agent: {message}");
    ensure!(message.contains("millrace-agent"), "the event names no cause: {message}");
    let pod = cluster.api().namespaced::<Pod>("default").get("newcomer")?;
    ensure!(address(&pod).is_none(), "it has an address without an agent");
    Ok(())
}

/// Lets the agents run nowhere, or everywhere.
fn choose_nodes(cluster: &Cluster, nowhere: Option<&str>) -> Result<()> {
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { NOWHERE: nowhere } } } } });
    cluster.api().namespaced::<DaemonSet>(NAMESPACE).patch(NAME, &patch).map(drop)
}

/// Changes the DaemonSet by `kubectl`, and waits until every node has another agent.
fn rolled(cluster: &Cluster, agents: &Agents, arguments: &[&str]) -> Result<Agents> {
    let begun = Instant::now();
    let mut kubectl = cluster.kubectl()?;
    let output = kubectl.args(["--namespace", NAMESPACE]).args(arguments).output().context("run kubectl")?;
    if !output.status.success() {
        bail!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let others = cluster.wait_for_other_agents(agents)?;
    println!("kubectl {}: other agents ready after {:.1?}", arguments.join(" "), begun.elapsed());
    Ok(others)
}

fn image_of(cluster: &Cluster) -> Result<String> {
    let agents = cluster.agents()?;
    let agent = agents.values().next().context("no agent runs")?;
    image(agent).context("a pod has an image")
}

fn image(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.containers.first()?.image.clone()
}

fn run_image(agents: &Agents, wanted: &str) -> Result<()> {
    for (node, agent) in agents {
        ensure!(image(agent).as_deref() == Some(wanted), "the agent of {node} runs {:?}", image(agent));
    }
    Ok(())
}

/// Since when each node has been ready.
fn ready_since(cluster: &Cluster) -> Result<Vec<String>> {
    let nodes = cluster.api().cluster_wide::<NodeObject>().list("")?;
    let since = |node: &NodeObject| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        let ready =
            conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
        Some(format!("{:?}", ready.last_transition_time))
    };
    nodes.iter().map(|node| since(node).context("a node is not ready")).collect()
}
