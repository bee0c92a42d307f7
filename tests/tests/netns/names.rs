//! What the command line and the log call things: by their names, and by those of this moment.
use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::{Target, Transport},
    topology::{AgentOptions, Options, Topology},
};
use serde_json::{Value, json};

use crate::expect::is_silent;

/// Each name is asked for as soon as there is something of that name, one after the other within a second.
#[test]
fn a_new_name_is_known_at_once() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    for round in 0..4 {
        let name = format!("pod-{round}");
        topology.add_pod(PodSpec::new("default", &name))?;
        let why = node.millrace(&["why", &format!("default/{name}"), "to", "192.0.2.1:80"])?;
        ensure!(why.code == Some(0), "{name}: {why:?}");
        let listed = node.millrace(&["endpoint", "list"])?.text;
        ensure!(listed.contains(&format!("default/{name}")), "{name} is not in:\n{listed}");

        let service = ServiceSpec::new("default", &format!("service-{round}")).port(Protocol::Tcp, 80, 80);
        topology.control_plane.apply_service(&service)?;
        topology.settle()?;
        let listed = node.millrace(&["service", "list"])?.text;
        ensure!(listed.contains(&format!("default/service-{round}")), "service-{round} is not in:\n{listed}");
    }
    topology.close()
}

#[test]
fn a_denied_flow_keeps_the_names_of_what_denied_it() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    server.probe().listen(Transport::Tcp, 80)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    for name in ["first", "second"] {
        topology.control_plane.apply(&json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "namespace": "default", "name": name },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
        }))?;
        topology.settle()?;
        for to in server.at(80) {
            is_silent(client.probe(), Target::tcp(to))?;
        }
        topology.control_plane.delete("NetworkPolicy", "default", name)?;
        topology.settle()?;
    }
    let names_both = || -> Result<()> {
        let shown = node.millrace(&["drops"])?.text;
        for name in ["first", "second"] {
            let rows: Vec<&str> = shown
                .lines()
                .filter(|line| line.contains(&format!("default/{name}, as it was until")))
                .collect();
            ensure!(rows.len() == 2, "IPv4 and IPv6, denied by {name}:\n{shown}");
        }
        ensure!(!shown.contains(" set "), "a number for a name:\n{shown}");
        Ok(())
    };
    names_both()?;
    let drops: Value = serde_json::from_str(&node.millrace(&["drops", "-o", "json"])?.text)?;
    let denied_by = &drops["denied_flows"][0]["denied_by"];
    assert_eq!(denied_by["isolation"], "formerly", "{drops:#}");

    // Another agent knows it from the one before, and a dead one has left it.
    node.kill_agent()?;
    names_both()?;
    node.start_agent()?;
    topology.settle()?;
    names_both()?;
    topology.close()
}

#[test]
fn the_log_names_interfaces_and_families() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    node.start_agent()?;
    eventually("the uplinks are in the log", PATIENCE, || {
        let log = node.log();
        ensure!(log.contains("IPv4 uplink eth0, IPv6 uplink eth0"), "{log}");
        Ok(())
    })?;
    let log = node.log();
    for number in ["Some(", " V4", " V6"] {
        let line = log.lines().find(|line| line.contains(number));
        assert_eq!(line, None, "{number:?} is nothing that people say");
    }
    topology.close()
}

#[test]
fn a_node_of_a_name_that_no_object_has_is_not_ready_for_the_runtime_either() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    topology.control_plane.delete("Node", "", &node.spec().name)?;
    node.spawn_agent(&AgentOptions::default())?;
    node.await_agent()?;
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let mut call = pod.cni_call(node, "STATUS");
    (call.container_id, call.netns, call.ifname, call.args) = (None, None, None, None);
    let error = node.cni(&call)?.expect_err("no pod would get an address");
    assert_eq!(error.code, 50, "{error}");
    assert!(error.message.contains("no such object") && error.message.contains("--node-name"), "{error}");
    let ready = node.millrace(&["health", "ready"])?;
    assert_eq!(ready.code, Some(1));
    assert!(ready.text.contains("--node-name"), "{ready:?}");
    topology.control_plane.apply_node(node.spec())?;
    eventually("STATUS succeeds", PATIENCE, || node.cni(&call)?.map(drop).context("STATUS"))?;
    topology.close()
}
