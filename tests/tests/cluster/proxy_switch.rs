//! The services of a node move from Millrace to a real kube-proxy and back, as docs/install.md says, while they are
//! used. Those of the other node stay where they are.
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Iptables, Node, programs::IN_NODES, proxy},
};
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::json;

use crate::{
    own::alone,
    shared::PATIENCE,
    stage::{Stage, service},
};

const NODE: &str = "node-1";

/// After how many seconds netfilter forgets a connection of which it saw one direction; 120 unless somebody sets it.
const HALF_SEEN: &str = "10";
/// Where that is set.
const SWITCH: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_sent";
/// By then it has forgotten them, also where nothing was set.
const FORGOTTEN: Duration = Duration::from_mins(3);

#[test]
fn services_move_to_kube_proxy_and_back_under_load() -> Result<()> {
    alone(|cluster| {
        let node = cluster.node(NODE)?;
        translated_by(node, "millrace")?;
        let mut switch = Command::new("sh");
        switch.args(["-c", &format!("echo {HALF_SEEN} > {SWITCH}")]);
        ensure!(node.run(switch)?.status.success(), "{SWITCH} cannot be set");

        let stage = Stage::set_for_a_move(cluster)?;
        stage.begin()?;
        leave_services_to(cluster, node, "both")?;
        stage.goes_on().context("both, before kube-proxy is started")?;
        forgets_half_seen_connections(node, &stage)?;
        start_kube_proxy(cluster, node)?;
        stage.goes_on().context("both, with kube-proxy")?;
        leave_services_to(cluster, node, "kube-proxy")?;
        stage.end("Millrace to kube-proxy")?;

        let stage = Stage::set_for_a_move(cluster)?;
        stage.begin()?;
        let through = packets_through_kube_proxy(cluster, node)?;
        stage.goes_on()?;
        let now = packets_through_kube_proxy(cluster, node)?;
        ensure!(now > through, "kube-proxy translates nothing: {through} packets, then {now}");
        leave_services_to(cluster, node, "both")?;
        stage.end("kube-proxy to both")?;

        // Connections that kube-proxy began are over.
        let stage = Stage::set_for_a_move(cluster)?;
        stage.begin()?;
        stop_kube_proxy(node)?;
        stage.goes_on()?;
        leave_services_to(cluster, node, "millrace")?;
        stage.end("both to Millrace")?;
        label(cluster, None)
    })
}

/// Waits until netfilter has forgotten the connections of which it saw one direction, while Millrace answered past it:
/// kube-proxy would drop their packets. The kubelet's rules make netfilter look. What strangers try stays half-seen.
fn forgets_half_seen_connections(node: &Node, stage: &Stage) -> Result<()> {
    let begun = Instant::now();
    let before = half_seen(node, stage)?;
    eventually("netfilter forgets half-seen connections", FORGOTTEN, || {
        let now = half_seen(node, stage)?;
        let known: Vec<&String> =
            now.iter().filter(|(tuple, _)| before.contains_key(*tuple)).map(|(_, line)| line).collect();
        ensure!(known.is_empty(), "{} are known: {:#?}", known.len(), &known[..known.len().min(4)]);
        Ok(())
    })?;
    println!("netfilter forgot {} half-seen connections in {:.0?}", before.len(), begun.elapsed());
    Ok(())
}

/// The connections of clients that netfilter takes for half open: addresses and ports, and all that it says.
fn half_seen(node: &Node, stage: &Stage) -> Result<BTreeMap<String, String>> {
    let mut list = Command::new("conntrack");
    list.args(["-L", "-p", "tcp", "--state", "SYN_SENT"]);
    let output = node.run(list)?;
    ensure!(output.status.success(), "conntrack -L: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let connection = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().filter(|word| word.contains('=')).take(4).collect();
        let of_client =
            stage.sources().iter().any(|source| words.first() == Some(&&*format!("src={source}")));
        of_client.then(|| (words.join(" "), line.to_owned()))
    };
    Ok(list.lines().filter_map(connection).collect())
}

/// Labels the node, and waits until its agent has followed.
fn leave_services_to(cluster: &Cluster, node: &Node, who: &str) -> Result<()> {
    label(cluster, Some(who))?;
    translated_by(node, who)
}

fn label(cluster: &Cluster, who: Option<&str>) -> Result<()> {
    let patch = json!({ "metadata": { "labels": { "millrace.io/services": who } } });
    cluster.api().cluster_wide::<NodeObject>().patch(NODE, &patch).map(drop)
}

fn translated_by(node: &Node, who: &str) -> Result<()> {
    eventually(format!("{who} translates on {NODE}"), PATIENCE, || {
        let status = node.millrace(&["status"])?;
        let agent = &status["agent"];
        ensure!(agent["services_by"] == who, "it is {}: {}", agent["services_by"], agent["problems"]);
        Ok(())
    })
}

/// Starts kube-proxy, and waits until it has the stage's services.
fn start_kube_proxy(cluster: &Cluster, node: &Node) -> Result<()> {
    let mode = proxy::Mode::Iptables(Iptables::Nft);
    proxy::start_on_node(node, mode, cluster.plane())?;
    eventually("kube-proxy has written its rules", PATIENCE, || {
        node.component("kube-proxy").check_runs()?;
        packets_through_kube_proxy(cluster, node).map(drop)
    })
}

/// Ends kube-proxy and removes its rules.
fn stop_kube_proxy(node: &Node) -> Result<()> {
    node.component("kube-proxy").stop()?;
    let mut cleanup = Command::new(Path::new(IN_NODES).join("kube-proxy"));
    cleanup.arg("--cleanup");
    let output = node.run(cleanup)?;
    ensure!(output.status.success(), "kube-proxy --cleanup: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!rules(node)?.contains("KUBE-SVC-"), "rules are left");
    Ok(())
}

/// How many packets met kube-proxy's rules of the stage's service.
fn packets_through_kube_proxy(cluster: &Cluster, node: &Node) -> Result<u64> {
    let address = format!("-d {}/32", service(cluster, "stage")?);
    let rules = rules(node)?;
    let lines = rules.lines().filter(|line| line.contains(&address) && line.contains("-j KUBE-SVC-"));
    let packets = lines.map(|line| {
        let counter = line.strip_prefix('[').and_then(|line| line.split_once(':'));
        counter
            .and_then(|(packets, _)| packets.parse::<u64>().ok())
            .with_context(|| format!("a counter: {line}"))
    });
    let packets: Vec<u64> = packets.collect::<Result<_>>()?;
    ensure!(packets.len() == 2, "rules for {} of 2 ports", packets.len());
    Ok(packets.iter().sum())
}

fn rules(node: &Node) -> Result<String> {
    let mut save = Command::new("iptables-save");
    save.args(["-c", "-t", "nat"]);
    let output = node.run(save)?;
    ensure!(output.status.success(), "iptables-save: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
