//! A new pod starts with filters and gets its links when no pod is being added: it is guarded all the while, and no
//! packet notices the change.
use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::{LoadPlan, Target, Transport},
    topology::{Node, Pod, Topology},
};
use serde_json::json;

use crate::expect::{TRANSPORTS, is_answered_by, is_silent, target};

const PORT: u16 = 80;
const PROGRAMS: [&str; 2] = ["from_pod", "to_pod"];

/// The host side of a pod's pair.
fn host_side(pod: &Pod) -> Result<String> {
    let interfaces = pod.cni_result()["interfaces"].as_array().context("the result has no interfaces")?;
    let host = interfaces.iter().find(|interface| !interface["sandbox"].is_string());
    Ok(host.and_then(|host| host["name"].as_str()).context("no interface of the host")?.to_owned())
}

/// How many of the pod's two programs are attached by links.
fn links(node: &Node, pod: &Pod) -> Result<usize> {
    let (links, ifname) = (node.maps().links()?, host_side(pod)?);
    Ok(PROGRAMS.iter().filter(|program| links.contains(&format!("{ifname}:{program}"))).count())
}

/// How many filters are on the pod's interface.
fn filters(node: &Node, pod: &Pod) -> Result<usize> {
    let ifname = host_side(pod)?;
    ["ingress", "egress"].into_iter().try_fold(0, |found, direction| {
        let output = node.netns().run(|| {
            Command::new("tc").args(["-json", "filter", "show", "dev", &ifname, direction]).output()
        })?;
        let output = output.context("run tc")?;
        ensure!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(found + PROGRAMS.iter().filter(|program| text.contains(*program)).count())
    })
}

/// A pod that serves, and admits nobody when it is locked.
fn pod(topology: &Topology, name: &str, app: &str) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(PodSpec::new("default", name).label("app", app))?;
    for transport in TRANSPORTS {
        pod.probe().listen(transport, PORT)?;
    }
    Ok(pod)
}

/// Nobody reaches pods with `app: locked`; those with `app: server` are policed, so that their flows are tracked.
fn topology() -> Result<Topology> {
    let topology = Topology::start()?;
    for (app, ingress) in [("locked", json!([])), ("server", json!([{}]))] {
        topology.control_plane.apply(&json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "namespace": "default", "name": app },
            "spec": {
                "podSelector": { "matchLabels": { "app": app } },
                "policyTypes": ["Ingress"],
                "ingress": ingress,
            },
        }))?;
    }
    topology.settle()?;
    Ok(topology)
}

fn targets(pod: &Pod) -> Vec<Target> {
    let both = |transport: Transport| pod.at(PORT).map(|to: SocketAddr| target(transport, to));
    TRANSPORTS.into_iter().flat_map(both).collect()
}

#[test]
fn links_follow_under_load_and_nothing_is_lost_or_let_through() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = topology()?;
    let node = topology.node(0);
    let (server, locked) = (pod(&topology, "server", "server")?, pod(&topology, "locked", "locked")?);
    let client = pod(&topology, "client", "client")?;
    client.probe().start_load(&LoadPlan {
        long_lived: targets(&server),
        fresh: targets(&server),
        forbidden: targets(&locked),
        interval: Duration::from_millis(2),
        timeout: Duration::from_secs(2),
    })?;
    assert_eq!((links(node, &client)?, filters(node, &client)?), (0, 2), "a new pod has filters");
    for pod in [&server, &locked, &client] {
        eventually("the links have come, and the filters have gone", PATIENCE, || {
            let (links, filters) = (links(node, pod)?, filters(node, pod)?);
            ensure!((links, filters) == (2, 0), "{}: {links} links, {filters} filters", pod.name());
            Ok(())
        })?;
    }
    let report = client.probe().stop_load()?;
    assert_eq!((report.lost, report.reset, report.breaches), (0, 0, 0), "{report:?}");
    assert!(
        report.answered_long_lived > 100 && report.answered_fresh > 100 && report.denied > 0,
        "{report:?}"
    );
    topology.close()
}

#[test]
fn a_pod_whose_agent_dies_before_its_links_came_stays_guarded_and_gets_them_from_the_next() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = topology()?;
    let node = topology.node(0);
    let client = pod(&topology, "client", "client")?;
    let (server, locked) = (pod(&topology, "server", "server")?, pod(&topology, "locked", "locked")?);
    node.kill_agent()?;
    assert_eq!((links(node, &locked)?, filters(node, &locked)?), (0, 2), "the agent died before");
    let reaches_only_the_open_one = || -> Result<()> {
        targets(&server)
            .into_iter()
            .try_for_each(|to| is_answered_by("default/server", client.probe(), to))?;
        targets(&locked).into_iter().try_for_each(|to| is_silent(client.probe(), to))
    };
    reaches_only_the_open_one()?;
    node.start_agent()?;
    for pod in [&server, &locked, &client] {
        assert_eq!((links(node, pod)?, filters(node, pod)?), (2, 0), "{} has its links", pod.name());
    }
    reaches_only_the_open_one()?;
    topology.close()
}
