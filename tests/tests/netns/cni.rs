//! The CNI binary, called as a container runtime calls it.
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use dataplane_common::maps::MapId;
use harness::{
    cluster::PodSpec,
    kernel,
    probe::wire::{Target, Transport},
    topology::{Node, Topology},
};
use serde_json::{Value, json};

use crate::expect::{LONG, becomes_answered, is_answered_by};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What a node holds on behalf of its pods.
fn holdings(node: &Node) -> Result<(BTreeSet<String>, usize, Vec<String>)> {
    let interfaces = node.netns().run(|| -> Result<BTreeSet<String>> {
        let found = nix::ifaddrs::getifaddrs().context("list the interfaces")?;
        Ok(found.map(|interface| interface.interface_name).collect())
    })??;
    let mut endpoints = 0;
    for map in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
        endpoints += node.maps().entries(map)?.len();
    }
    Ok((interfaces, endpoints, node.maps().links()?))
}

#[test]
fn dozens_of_pods_come_and_go_and_leave_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let before = holdings(node)?;
    let mut addresses = BTreeSet::new();
    for round in 0..36 {
        let name = format!("pod-{round}");
        let pod = topology.add_pod(PodSpec::new("default", &name))?;
        assert_eq!(pod.ips().len(), 2, "one address per family");
        addresses.extend(pod.ips().iter().copied());
        // DEL may be repeated.
        let call = pod.cni_call(node, "DEL");
        assert_eq!(node.cni(&call)?, Ok(Value::Null));
        assert_eq!(node.cni(&call)?, Ok(Value::Null));
        topology.delete_pod("default", &name)?;
    }
    assert!(addresses.len() > 2, "addresses are not reused at once: {addresses:?}");
    assert_eq!(holdings(node)?, before);
    assert_eq!(node.maps().flows()?, 0);
    topology.close()
}

#[test]
fn pods_created_side_by_side_get_addresses_of_their_own() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pods = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..16)
            .map(|number| {
                let topology = &topology;
                scope.spawn(move || {
                    topology.add_pod(PodSpec::new("default", &format!("pod-{number}")).on(number % 2))
                })
            })
            .collect();
        adding.into_iter().map(|adding| adding.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let addresses: BTreeSet<_> = pods.iter().flat_map(|pod| pod.ips().iter().copied()).collect();
    assert_eq!(addresses.len(), 32);
    let server = &pods[0];
    server.probe().listen(Transport::Tcp, 80)?;
    for pod in &pods[1..] {
        for to in server.at(80) {
            is_answered_by(server.probe().name(), pod.probe(), Target::tcp(to))?;
        }
    }
    topology.close()
}

#[test]
fn a_result_has_the_shape_of_the_version_that_was_asked_for() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    for (number, version) in VERSIONS.iter().enumerate() {
        let pod = topology.prepare_pod(PodSpec::new("default", &format!("pod-{number}")))?;
        let mut call = pod.cni_call(node, "ADD");
        call.config = node.cni_config(version).to_string();
        let result = node.cni(&call)?.with_context(|| format!("ADD of version {version}"))?;
        assert_eq!(result["cniVersion"], json!(version));
        let ips = result["ips"].as_array().context("no ips")?;
        assert_eq!(ips.len(), 2);
        for ip in ips {
            assert_eq!(
                ip["version"].is_string(),
                number < 2,
                "{version}: `version` of an IP ended with 0.4.0"
            );
        }
        call.command = "DEL".to_owned();
        assert_eq!(node.cni(&call)?, Ok(Value::Null));
    }
    topology.close()
}

#[test]
fn version_tells_what_is_supported_without_an_agent() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&harness::topology::Options::default())?;
    let node = topology.node(0);
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let mut call = pod.cni_call(node, "VERSION");
    (call.container_id, call.netns, call.ifname, call.args) = (None, None, None, None);
    let result = node.cni(&call)?.context("VERSION")?;
    let supported = result["supportedVersions"].as_array().context("no supportedVersions")?;
    for version in VERSIONS {
        assert!(
            supported.contains(&json!(version)) || version == "0.3.0",
            "{version} is not in {supported:?}"
        );
    }
    topology.close()
}

#[test]
fn without_an_agent_add_asks_to_be_tried_again_and_leaves_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let before = holdings(node)?;
    node.kill_agent()?;
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let error = node.cni(&pod.cni_call(node, "ADD"))?.expect_err("no agent");
    assert_eq!(error.code, 11, "{error}");
    assert_ne!(error.exit_code, Some(0));
    assert_eq!(node.cni(&pod.cni_call(node, "DEL"))?, Ok(Value::Null));
    assert_eq!(holdings(node)?, before);
    // The runtime's next attempt, once the agent is back.
    node.start_agent()?;
    topology.attach_pod(&pod)?;
    pod.probe().listen(Transport::Tcp, 80)?;
    for to in pod.at(80) {
        is_answered_by("default/pod", node.host(), Target::tcp(to))?;
    }
    topology.close()
}

#[test]
fn a_call_that_makes_no_sense_is_refused_with_the_code_of_the_specification() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let good = pod.cni_call(node, "ADD");

    let mut call = good.clone();
    "{ not json".clone_into(&mut call.config);
    let error = node.cni(&call)?.expect_err("not JSON");
    assert_eq!(error.code, 6, "{error}");

    let mut call = good.clone();
    call.config = node.cni_config("9.9.9").to_string();
    let error = node.cni(&call)?.expect_err("a version of the future");
    assert_eq!(error.code, 1, "{error}");

    let mut call = good.clone();
    call.netns = None;
    let error = node.cni(&call)?.expect_err("no namespace");
    assert_eq!(error.code, 4, "{error}");
    assert!(error.message.contains("CNI_NETNS"), "{error}");

    let mut call = good.clone();
    call.netns = Some("/run/netns/does-not-exist".into());
    let error = node.cni(&call)?.expect_err("no such namespace");
    assert!(error.output.contains("does-not-exist"), "{error}");

    let mut call = good;
    "BREW".clone_into(&mut call.command);
    let error = node.cni(&call)?.expect_err("no such command");
    assert_eq!(error.code, 4, "{error}");
    topology.close()
}

/// Default deny in both directions is there before the pod; the pod's process sends from before its interface
/// exists, and others send to it.
#[test]
fn a_pods_first_packet_is_policed() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let witness_near = topology.add_pod(PodSpec::new("open", "near"))?;
    let witness_far = topology.add_pod(PodSpec::new("open", "far").on(1))?;
    let witnesses = [&witness_near, &witness_far];
    for witness in witnesses {
        witness.probe().listen(Transport::Udp, 80)?;
    }
    topology.control_plane.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "closed", "name": "deny-all" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] },
    }))?;
    topology.settle()?;
    let targets: Vec<SocketAddr> = witnesses.iter().flat_map(|witness| witness.at(80)).collect();
    let mut flooded = 0;
    for round in 0..24 {
        let name = format!("pod-{round}");
        let pod = topology.prepare_pod(PodSpec::new("closed", &name).on(round % 2))?;
        pod.probe().listen(Transport::Udp, 80)?;
        pod.probe().start_flood(&targets, Duration::from_micros(200))?;
        topology.attach_pod(&pod)?;
        witness_near.probe().start_flood(&pod.at(80), Duration::from_micros(200))?;
        std::thread::sleep(Duration::from_millis(50));
        flooded += pod.probe().stop_load()?.flooded;
        witness_near.probe().stop_load()?;
        assert_eq!(pod.probe().served(Transport::Udp, 80)?, 0, "round {round}: something got in");
        topology.delete_pod("closed", &name)?;
    }
    for witness in witnesses {
        assert_eq!(witness.probe().served(Transport::Udp, 80)?, 0, "something got out");
    }
    assert!(flooded > 1_000, "only {flooded} datagrams were sent");
    // Without the policy the same datagrams arrive: the test can see what passes.
    let pod = topology.add_pod(PodSpec::new("open", "pod"))?;
    for to in targets {
        becomes_answered(pod.probe(), Target::udp(to))?;
    }
    assert!(pod.probe().probe_one(Target::udp(witness_near.at(80)[0]), LONG)?.is_answered());
    topology.close()
}
