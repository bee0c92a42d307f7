//! A directory as the cluster: what `docs/manifests.md` shows works as it stands there, and who waits is told.
use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    kernel,
    probe::wire::{Target, Transport},
    topology::{AgentOptions, Node, Options, Topology},
};
use serde_json::Value;

use crate::expect::{becomes_answered, is_silent};

const DOCUMENT: &str = include_str!("../../../docs/manifests.md");

/// The first block of the document in a language.
fn sample(language: &str) -> Result<&'static str> {
    let (_, rest) = DOCUMENT.split_once(&format!("```{language}\n")).context("no such block")?;
    rest.split_once("```").map(|(block, _)| block).context("the block has no end")
}

/// All that the node's directory shows is in force now.
fn wait(node: &Node) -> Result<()> {
    let waited = node.millrace(&["status", "--wait"])?;
    ensure!(waited.code == Some(0), "{waited:?}");
    Ok(())
}

#[test]
fn the_samples_of_the_document_work() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    let manifests = node.state_dir().with_file_name("sample");
    fs::create_dir(&manifests)?;
    let all = manifests.join("all.yaml");
    fs::write(&all, sample("yaml")?)?;
    node.spawn_agent(&AgentOptions { manifests: Some(manifests), ..AgentOptions::default() })?;
    node.await_agent()?;
    wait(node)?;
    assert_eq!(node.status()?.problems, Vec::<String>::new());

    // A runtime merges the list into the configuration of the plugin.
    let conflist: Value = serde_json::from_str(sample("json")?)?;
    let mut config = conflist["plugins"][0].clone();
    for (key, value) in [
        ("cniVersion", conflist["cniVersion"].clone()),
        ("name", conflist["name"].clone()),
        ("runtimeDir", node.runtime_dir().display().to_string().into()),
        ("stateDir", node.state_dir().display().to_string().into()),
    ] {
        config[key] = value;
    }
    // Made by the harness; the sample's directory does not say so, and has the pod that it is to be.
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let mut call = pod.cni_call(node, "ADD");
    call.config = config.to_string();
    call.args = Some("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web".to_owned());
    let result = node.cni(&call)?.context("ADD of the sample's pod")?;
    let address = result["ips"][0]["address"].as_str().context("no address")?;
    let address = address.split('/').next().unwrap_or_default();
    assert!(sample("yaml")?.contains(&format!("[{address}]")), "the document names another than {address}");

    pod.probe().listen(Transport::Tcp, 80)?;
    becomes_answered(node.host(), Target::tcp("10.96.0.20:8080".parse()?))?;
    let why = node.millrace(&["why", "shop/web", "to", "10.96.0.20:8080"])?;
    assert_eq!(why.code, Some(0), "{why:?}");
    let why = node.millrace(&["why", "192.0.2.1", "to", "shop/web:80"])?;
    assert_eq!(why.code, Some(3), "a stranger is denied: {why:?}");
    topology.close()
}

/// Each change is asked about at once, and tried at once.
#[test]
fn who_waits_for_a_change_finds_it_in_force() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    server.probe().listen(Transport::Tcp, 80)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    wait(node)?;
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";
    // The file is a link, whose target changes without notification.
    let target = node.state_dir().with_file_name("deny");
    fs::write(&target, "# nothing yet\n")?;
    std::os::unix::fs::symlink(&target, node.manifests().join("deny.yaml"))?;
    for _ in 0..4 {
        fs::write(&target, deny)?;
        wait(node)?;
        for to in server.at(80) {
            is_silent(client.probe(), Target::tcp(to))?;
        }
        fs::write(&target, "# nothing any more\n")?;
        wait(node)?;
        for to in server.at(80) {
            crate::expect::is_answered_by("default/server", client.probe(), Target::tcp(to))?;
        }
    }
    node.kill_agent()?;
    let waited = node.millrace(&["status", "--wait", "1"])?;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    assert!(waited.text.contains("missing:   cannot connect to the agent"), "{waited:?}");
    topology.close()
}

#[test]
fn what_is_not_in_the_directory_itself_is_not_read() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    node.start_agent()?;
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: 10.96.9.9, ports: [{{port: 80}}]}}\n"
        )
    };
    let dir = node.manifests();
    fs::create_dir(dir.join("below"))?;
    fs::create_dir(dir.join("folder.yaml"))?;
    for (file, name) in [
        ("below/below.yaml", "below"),
        ("folder.yaml/inside.yaml", "inside"),
        (".hidden.yaml", "hidden"),
        ("backup.yaml~", "backup"),
        ("read.yaml", "read"),
    ] {
        fs::write(dir.join(file), service(name))?;
    }
    wait(node)?;
    let listed = node.millrace(&["service", "list"])?.text;
    for (name, is_read) in
        [("below", false), ("inside", false), ("hidden", false), ("backup", false), ("read", true)]
    {
        assert_eq!(listed.contains(&format!("default/{name} ")), is_read, "{name} in\n{listed}");
    }
    let problems = node.status()?.problems;
    assert!(matches!(&problems[..], [one] if one.contains("folder.yaml")), "{problems:#?}");
    topology.close()
}
