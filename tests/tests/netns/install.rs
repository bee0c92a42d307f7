//! An agent on a node that it was just put on, and a node that is to be rid of it.
use std::{fs, path::Path};

use agent_api::interface::{HOST_IFNAME_PREFIX, NODE_ROUTE_PROTOCOL};
use anyhow::{Context as _, Result, bail};
use bpf_maps::{Map, MillraceDir, Versions};
use dataplane_common::maps::MapId;
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    topology::{AgentOptions, Node, Options, Topology},
};
use serde_json::Value;

const CONFLIST: &str = "05-millrace.conflist";

/// The agent says that this is missing for the node to be ready.
fn lacks(node: &Node, words: &[&str]) -> Result<()> {
    eventually(format!("the node lacks what has the words {words:?}"), PATIENCE, || {
        let unmet = node.health()?.unmet;
        let found = unmet.iter().any(|sentence| words.iter().all(|word| sentence.contains(word)));
        found.then_some(()).with_context(|| format!("it lacks {unmet:#?}"))
    })
}

fn becomes_ready(node: &Node) -> Result<()> {
    eventually("the node is ready", PATIENCE, || match node.health()?.unmet.as_slice() {
        [] => Ok(()),
        unmet => bail!("it lacks {unmet:#?}"),
    })
}

/// Options that place the CNI configuration and the plugin in folders of the node.
fn folders(node: &Node) -> Result<Vec<String>> {
    let folder = node.state_dir().with_file_name("cni");
    let mut options = Vec::new();
    for (option, name) in [("--cni-conf-dir", "conf"), ("--cni-bin-dir", "bin")] {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        options.extend([option.to_owned(), path.display().to_string()]);
    }
    Ok(options)
}

fn conflist(node: &Node) -> std::path::PathBuf {
    node.state_dir().with_file_name("cni").join("conf").join(CONFLIST)
}

fn plugin(node: &Node) -> std::path::PathBuf {
    node.state_dir().with_file_name("cni").join("bin/millrace-cni")
}

fn options(node: &Node, more: &[&str]) -> Result<AgentOptions> {
    let mut arguments = folders(node)?;
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    Ok(AgentOptions { arguments, ..AgentOptions::default() })
}

fn one_node() -> Result<Topology> {
    Topology::build(&Options { nodes: 1, ..Options::default() })
}

#[test]
fn the_runtime_is_told_of_millrace_when_the_node_can_serve_and_not_before() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = one_node()?;
    let node = topology.node(0);
    // The Node object is not there: no address for any pod.
    topology.control_plane.delete("Node", "", &node.spec().name)?;
    node.spawn_agent(&options(node, &[])?)?;
    lacks(node, &["Node node-1", "no such object", "--node-name"])?;
    assert!(!conflist(node).exists(), "written too early");

    let mut bare = serde_json::json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.spec().name },
    });
    topology.control_plane.apply(&bare)?;
    lacks(node, &["spec.podCIDRs", "--allocate-node-cidrs"])?;
    assert!(!conflist(node).exists(), "written too early");
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    let error = node.cni(&pod.cni_call(node, "ADD"))?.expect_err("no addresses");
    assert_eq!(error.code, 11, "{error}");
    assert!(error.message.contains("spec.podCIDRs"), "{error}");

    bare["spec"] = serde_json::json!({ "podCIDRs": node.spec().pod_cidrs });
    topology.control_plane.apply(&bare)?;
    becomes_ready(node)?;
    let written: Value = serde_json::from_slice(&fs::read(conflist(node))?)?;
    assert_eq!(written["plugins"][0]["runtimeDir"], node.runtime_dir().display().to_string());
    topology.attach_pod(&pod)?;

    // Without an agent the runtime goes on calling the plugin, which asks to be tried again.
    node.kill_agent()?;
    assert!(conflist(node).exists());
    topology.close()
}

#[test]
fn the_configuration_of_another_cni_that_comes_first_is_named() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = one_node()?;
    let node = topology.node(0);
    let options = options(node, &[])?;
    let other = conflist(node).with_file_name("00-other.conflist");
    fs::write(&other, "{}")?;
    node.spawn_agent(&options)?;
    lacks(node, &["00-other.conflist", "and not Millrace", "remove"])?;
    fs::rename(&other, conflist(node).with_file_name("10-other.conflist"))?;
    eventually("the node is ready once the other comes later", PATIENCE + PATIENCE, || {
        let unmet = node.health()?.unmet;
        if unmet.is_empty() { Ok(()) } else { bail!("it lacks {unmet:#?}") }
    })?;
    let problems = node.status()?.problems;
    assert!(problems.iter().any(|problem| problem.contains("10-other.conflist")), "{problems:#?}");
    topology.close()
}

#[test]
fn an_agent_without_its_api_server_is_live_and_says_what_it_waits_for() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = one_node()?;
    let node = topology.node(0);
    let kubeconfig = node.state_dir().join("kubeconfig");
    // Nobody listens on this port of the node's own loopback.
    fs::write(
        &kubeconfig,
        "{clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}], \
         contexts: [{name: c, context: {cluster: c, user: u}}], current-context: c}",
    )?;
    let options = AgentOptions { kubeconfig: Some(kubeconfig), ..AgentOptions::default() };
    node.spawn_agent(&options)?;
    lacks(node, &["the first list of", "has not come"])?;
    lacks(node, &["cannot list", "cannot be reached", "retried until it works"])?;
    topology.close()
}

#[test]
fn what_was_installed_is_removed_and_nothing_is_left() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let node = topology.node(0);
    let run = |more: &[&str]| node.run_agent(&options(node, more)?);
    let switches =
        ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(|name| format!("/proc/sys/{name}"));
    let values = || {
        let read = || switches.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>();
        node.netns().run(read)?.context("read the switches")
    };
    node.netns()
        .run(|| switches.iter().try_for_each(|path| fs::write(path, "0")))?
        .context("forward nothing")?;
    let installed = run(&["install-cni"])?;
    assert!(installed.status.success(), "{}", installed.log);
    assert!(
        installed.log.contains("loopback"),
        "a missing reference plugin is worth a warning: {}",
        installed.log
    );
    assert!(plugin(node).exists());
    for each in topology.nodes() {
        each.spawn_agent(&options(each, &[])?)?;
        each.await_agent()?;
        becomes_ready(each)?;
    }
    topology.add_pod(PodSpec::new("default", "pod"))?;
    assert_eq!(values()?, ["1\n", "1\n"]);
    // What writers left that were killed, and an agent whose pods departed.
    let partials = [
        conflist(node).with_file_name("05-millrace.conflist.partial"),
        plugin(node).with_file_name("millrace-cni.partial"),
        node.runtime_dir().join("catalog.json.partial"),
        node.state_dir().join("leases.json.partial"),
        node.state_dir().join("departed.json"),
        node.state_dir().join("manifests/a.yaml.partial"),
    ];
    for path in &partials {
        fs::write(path, "half")?;
    }
    assert!(ours(node)?.len() >= 3, "a link and routes of both families: {:#?}", ours(node)?);

    let refused = run(&["uninstall"])?;
    assert!(!refused.status.success() && refused.log.contains("another millrace-agent"), "{}", refused.log);
    node.stop_agent()?;
    let refused = run(&["uninstall"])?;
    assert!(!refused.status.success() && refused.log.contains("default/pod"), "{}", refused.log);
    assert!(conflist(node).exists() && !node.maps().links()?.is_empty(), "nothing was touched");

    let removed = run(&["uninstall", "--cut-off-pods"])?;
    assert!(removed.status.success(), "{}", removed.log);
    assert_eq!(ours(node)?, Vec::<String>::new());
    for path in [node.bpffs().join("millrace"), conflist(node), plugin(node)] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    for path in &partials {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert_eq!(values()?, ["0\n", "0\n"], "as it was before");
    assert_eq!((names(&node.runtime_dir())?, names(&node.state_dir())?), (vec![], vec![]));
    let again = run(&["uninstall"])?;
    assert!(again.status.success(), "what is gone is no error: {}", again.log);
    topology.close()
}

#[test]
fn a_directory_of_plugins_that_is_missing_or_read_only_is_one_clear_message() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = one_node()?;
    let node = topology.node(0);
    let install = |dir: &str| {
        let arguments = ["--cni-bin-dir", dir, "install-cni"].map(str::to_owned).to_vec();
        node.run_agent(&AgentOptions { arguments, ..AgentOptions::default() })
    };
    let missing = install("/nonexistent/bin")?;
    assert!(!missing.status.success());
    assert!(
        missing.log.contains("no directory /nonexistent/bin") && missing.log.contains("--cni-bin-dir"),
        "{}",
        missing.log
    );
    // A file system on which nothing can be made, whoever tries.
    let read_only = install("/sys/kernel")?;
    assert!(!read_only.status.success() && read_only.log.contains("--cni-bin-dir"), "{}", read_only.log);
    topology.close()
}

#[test]
fn an_agent_that_cannot_carry_flows_over_is_refused_and_changes_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = one_node()?;
    let node = topology.node(0);
    node.start_agent()?;
    topology.add_pod(PodSpec::new("default", "pod"))?;
    topology.settle()?;
    node.stop_agent()?;
    let (links, endpoints) = (node.maps().links()?, node.maps().entries(MapId::ENDPOINTS_V4)?);

    // As if an agent of a later release had made the map.
    let meta = Map::open(&MillraceDir::new(node.bpffs()).map_path(MapId::META))?;
    let versions = Versions::current().to_entries();
    let flows = versions.iter().find(|(name, _)| name.starts_with(b"CT_EST_V4")).context("no such map")?;
    meta.update(&flows.0, &99_u32.to_ne_bytes())?;
    let refused = node.run_agent(&AgentOptions::default())?;
    assert!(!refused.status.success());
    for words in ["CT_EST_V4 is of version 99", "run the agent that made it", "drain the node"] {
        assert!(refused.log.contains(words), "{}", refused.log);
    }
    assert_eq!((node.maps().links()?, node.maps().entries(MapId::ENDPOINTS_V4)?), (links, endpoints));

    // The agent that made them goes on where it was.
    meta.update(&flows.0, &flows.1)?;
    node.start_agent()?;
    assert_eq!(node.status()?.map_writes, 0);
    topology.close()
}

/// Interfaces and routes of ours on a node.
fn ours(node: &Node) -> Result<Vec<String>> {
    let shown = node.netns().run(|| -> Result<String> {
        let mut text = String::new();
        for family in ["-4", "-6"] {
            let protocol = NODE_ROUTE_PROTOCOL.to_string();
            text += &output(&["ip", family, "route", "show", "proto", &protocol])?;
        }
        Ok(text + &output(&["ip", "-o", "link", "show", "type", "veth"])?)
    })??;
    let is_ours = |line: &&str| line.contains(&format!(": {HOST_IFNAME_PREFIX}")) || line.contains("via");
    Ok(shown.lines().filter(is_ours).map(str::to_owned).collect())
}

fn output(words: &[&str]) -> Result<String> {
    let output = std::process::Command::new(words[0]).args(&words[1..]).output().context("start ip")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
