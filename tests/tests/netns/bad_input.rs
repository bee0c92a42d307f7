//! What is wrong gets one clear error, and the rest goes on.
use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::{Target, Transport},
    topology::{AgentOptions, Ended, Node, Options, Topology},
};

use crate::expect::{is_answered_by, is_silent};

/// The agent names a problem in these words.
fn names(node: &Node, words: &[&str]) -> Result<()> {
    eventually(format!("the agent names {words:?}"), PATIENCE, || {
        let problems = node.status()?.problems;
        let found = problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)));
        found.then_some(()).with_context(|| format!("it has these problems: {problems:#?}"))
    })
}

fn write(node: &Node, file: &str, text: &str) -> Result<()> {
    fs::write(node.manifests().join(file), text).with_context(|| format!("write {file}"))
}

/// A pod that serves, and a client of it.
fn serve(topology: &Topology) -> Result<()> {
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    server.probe().listen(Transport::Tcp, 80)?;
    topology.add_pod(PodSpec::new("default", "client"))?;
    Ok(())
}

fn serves(topology: &Topology) -> Result<()> {
    let (server, client) = (topology.pod("default", "server"), topology.pod("default", "client"));
    server
        .at(80)
        .into_iter()
        .try_for_each(|to| is_answered_by("default/server", client.probe(), Target::tcp(to)))
}

fn is_shut(topology: &Topology) -> Result<()> {
    let (server, client) = (topology.pod("default", "server"), topology.pod("default", "client"));
    server.at(80).into_iter().try_for_each(|to| is_silent(client.probe(), Target::tcp(to)))
}

#[test]
fn a_manifest_that_does_not_parse_is_named_and_the_rest_goes_on() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    write(node, "broken.yaml", "kind: Service\n  metadata: {name: [\n")?;
    names(node, &["broken.yaml"])?;
    serve(&topology)?;
    serves(&topology)?;
    fs::remove_file(node.manifests().join("broken.yaml"))?;
    eventually("the problem is gone with the file", PATIENCE, || {
        let problems = node.status()?.problems;
        problems.is_empty().then_some(()).with_context(|| format!("{problems:#?}"))
    })?;
    topology.close()
}

#[test]
fn a_kind_that_nobody_knows_does_not_stop_the_others() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let unknown = "apiVersion: example.com/v1\nkind: Teapot\nmetadata: {name: brown, namespace: default}\n";
    write(topology.node(0), "teapot.yaml", unknown)?;
    serve(&topology)?;
    serves(&topology)?;
    let said = format!("{:?}{}", topology.node(0).status()?.problems, topology.node(0).log());
    assert!(said.contains("Teapot") && said.contains("teapot.yaml"), "{said}");
    topology.close()
}

fn policy(ingress: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: wrong, namespace: default}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  ingress: {ingress}\n"
    )
}

#[test]
fn a_policy_with_an_invalid_network_is_named_and_fails_closed() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    serve(&topology)?;
    serves(&topology)?;
    write(topology.node(0), "wrong.yaml", &policy("[{from: [{ipBlock: {cidr: 10.244.0.0/33}}]}]"))?;
    names(topology.node(0), &["default/wrong", "cidr", "10.244.0.0/33"])?;
    topology.settle()?;
    is_shut(&topology)?;
    topology.close()
}

#[test]
fn a_policy_with_an_invalid_port_range_is_named_and_fails_closed() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    serve(&topology)?;
    serves(&topology)?;
    write(topology.node(0), "wrong.yaml", &policy("[{ports: [{port: 90, endPort: 80}]}]"))?;
    names(topology.node(0), &["default/wrong", "endPort"])?;
    topology.settle()?;
    is_shut(&topology)?;
    topology.close()
}

#[test]
fn a_service_without_ports_is_named_and_the_others_work() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    serve(&topology)?;
    topology.control_plane.apply_service(&ServiceSpec::new("default", "portless").select("app", "server"))?;
    let good = ServiceSpec::new("default", "good").select("app", "server").port(Protocol::Tcp, 8080, 80);
    let ips = topology.control_plane.apply_service(&good)?;
    topology.settle()?;
    names(topology.node(0), &["default/portless", "ports"])?;
    for ip in ips.both() {
        let to = Target::tcp((ip, 8080).into());
        is_answered_by("default/server", topology.pod("default", "client").probe(), to)?;
    }
    topology.close()
}

/// The agent ends with an error that holds these words.
fn ends_with(ended: &Ended, words: &[&str]) {
    assert!(!ended.status.success(), "it ended with success: {}", ended.log);
    for word in words {
        assert!(ended.log.contains(word), "{word:?} is not in:\n{}", ended.log);
    }
}

#[test]
fn a_missing_bpffs_cgroup_mount_or_manifest_directory_is_named_with_its_remedy() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, ..Options::default() })?;
    let node = topology.node(0);
    let nowhere = PathBuf::from("/nowhere");
    let ended = node.run_agent(&AgentOptions { bpffs: Some(node.state_dir()), ..AgentOptions::default() })?;
    ends_with(&ended, &["bpffs", "mount", &node.state_dir().display().to_string()]);
    let ended = node.run_agent(&AgentOptions { bpffs: Some(nowhere.clone()), ..AgentOptions::default() })?;
    ends_with(&ended, &["bpffs", "/nowhere"]);
    let ended =
        node.run_agent(&AgentOptions { cgroup_root: Some(nowhere.clone()), ..AgentOptions::default() })?;
    ends_with(&ended, &["cgroup", "/nowhere"]);
    let ended = node.run_agent(&AgentOptions { manifests: Some(nowhere), ..AgentOptions::default() })?;
    ends_with(&ended, &["--manifests", "/nowhere", "create it, or name the one that holds the manifests"]);
    topology.close()
}

#[test]
fn a_missing_capability_is_named() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, ..Options::default() })?;
    let without = |capabilities| AgentOptions { capabilities, ..AgentOptions::default() };
    for (capabilities, missing) in
        [(&[12, 38][..], "CAP_BPF"), (&[38, 39][..], "CAP_NET_ADMIN"), (&[12, 39][..], "CAP_PERFMON")]
    {
        ends_with(&topology.node(0).run_agent(&without(capabilities))?, &[missing]);
    }
    topology.close()
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused_and_the_first_goes_on() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let ended = node.run_agent(&AgentOptions::default())?;
    ends_with(&ended, &["another", &node.bpffs().display().to_string()]);
    serve(&topology)?;
    serves(&topology)?;
    topology.close()
}

#[test]
fn a_truncated_lease_file_is_named_and_no_pod_loses_its_address() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    serve(&topology)?;
    let node = topology.node(0);
    node.kill_agent()?;
    let path = node.state_dir().join("leases.json");
    let leases = fs::read(&path)?;
    fs::write(&path, &leases[..leases.len() / 2])?;
    node.start_agent()?;
    let said = format!("{:?}{}", node.status()?.problems, node.log());
    assert!(said.contains("leases.json"), "{said}");
    serves(&topology)?;
    // A new pod does not get the address of one that lives.
    let late = topology.add_pod(PodSpec::new("default", "late"))?;
    for pod in ["server", "client"] {
        for ip in topology.pod("default", pod).ips() {
            assert!(!late.ips().contains(ip), "{ip} belongs to {pod}");
        }
    }
    serves(&topology)?;
    topology.close()
}
