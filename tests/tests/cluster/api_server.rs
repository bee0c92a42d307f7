//! The control plane is away for longer than a watch lasts, and comes back.
use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Node, control_plane::API_PORT},
};

use crate::{
    own::alone,
    shared::{PATIENCE, in_pod},
    stage::{Stage, service},
};

/// Longer than the server would let a watch of the agent last.
const OUTAGE: Duration = Duration::from_secs(65);

/// How long the agent may take to try again after the server came back: its waits grow to a minute, and a watch that is
/// quiet must hold for ten seconds.
const RECOVERY: Duration = Duration::from_secs(100);

/// The programs that go. The store stays, as it does when an API server is replaced.
const PROGRAMS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// What the agents watch.
const RESOURCES: [&str; 6] = ["endpointslices", "namespaces", "networkpolicies", "nodes", "pods", "services"];

const LATE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: late}
spec:
  selector: {stage: server}
  ports: [{name: tcp, port: 80, protocol: TCP}]
";

#[test]
fn traffic_goes_on_without_a_control_plane_and_changes_arrive_when_it_is_back() -> Result<()> {
    alone(|cluster| {
        let stage = Stage::set(cluster)?;
        stage.begin()?;
        let plane = cluster.plane();
        let position = cluster.audit_position()?;
        let begun = Instant::now();
        PROGRAMS.iter().try_for_each(|program| plane.component(program).kill())?;

        for node in cluster.nodes() {
            says_unreachable(node, true, PATIENCE)?;
        }
        while begun.elapsed() < OUTAGE {
            stage.goes_on()?;
        }
        for node in cluster.nodes() {
            says_unreachable(node, true, PATIENCE)?;
            // Nothing is gained by a new start, and new pods whose objects came in time can be served.
            let health = node.millrace(&["health", "ready"])?;
            let unmet = health["unmet"].as_array().context("a list")?;
            ensure!(unmet.is_empty(), "{} is not ready without an API server: {unmet:?}", node.name());
        }

        let away = begun.elapsed();
        let back = Instant::now();
        plane.start_api_server()?;
        plane.wait_for_api()?;
        plane.start_controllers()?;
        for node in cluster.nodes() {
            says_unreachable(node, false, RECOVERY)?;
        }
        println!(
            "control plane away for {away:.0?}; the agents follow it again {:.1?} after its start",
            back.elapsed()
        );
        cluster.api().apply_yaml(LATE)?;
        let late = format!("{}:80", service(cluster, "late")?);
        for client in crate::stage::pods(cluster, "client")?.into_values() {
            let name = client.metadata.name.context("a pod has a name")?;
            eventually(format!("{name} reaches a new service"), PATIENCE, || {
                in_pod(cluster, &name, &["ask", "tcp", &late])
            })?;
        }
        stage.end("control plane away")?;
        cluster.api().delete_yaml(LATE)?;
        tell_requests(cluster, position)
    })
}

/// Whether the agent's status says that the API server cannot be reached.
fn says_unreachable(node: &Node, expected: bool, patience: Duration) -> Result<()> {
    let what = if expected { "says that" } else { "does not say any more that" };
    eventually(format!("{} {what} the API server cannot be reached", node.name()), patience, || {
        let status = node.millrace(&["status"])?;
        let problems =
            status["agent"]["problems"].as_array().with_context(|| format!("no status: {status}"))?;
        let says = problems
            .iter()
            .any(|problem| problem.as_str().is_some_and(|text| text.contains("cannot be reached")));
        ensure!(says == expected, "problems: {problems:?}");
        Ok(())
    })
}

/// Prints what the agents asked since the restart and how much they got, and checks that each kind was listed at most
/// once by each agent.
fn tell_requests(cluster: &Cluster, position: usize) -> Result<()> {
    let requests = cluster.requests_since(position)?;
    let mut by_verb: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for ((source, verb, resource), count) in &requests {
        *by_verb.entry((source, verb)).or_default() += count;
        ensure!(verb != "list" || *count <= 1, "{source} listed {resource} {count} times");
        ensure!(RESOURCES.contains(&resource.as_str()), "{source} asked for {resource}");
    }
    for node in cluster.nodes() {
        let address = node.address(cluster.options().families.first()).to_string();
        let count = |verb| by_verb.get(&(address.as_str(), verb)).copied().unwrap_or_default();
        let (lists, watches) = (count("list"), count("watch"));
        println!(
            "{} after the restart: {lists} lists, {watches} watches, {} bytes received",
            node.name(),
            received(cluster, node)?
        );
        ensure!(watches >= RESOURCES.len(), "{} watches {watches} of {} kinds", node.name(), RESOURCES.len());
    }
    Ok(())
}

/// How much the agent of a node got over the connections to the API server that it has now.
fn received(cluster: &Cluster, node: &Node) -> Result<u64> {
    let mut ss = Command::new("ss");
    let server = format!("{}:{API_PORT}", cluster.options().families.first().control_plane());
    ss.args(["-H", "-O", "-t", "-i", "-n", "-p", "dst", &server]);
    let output = node.run(ss)?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let of_agent = text.lines().filter(|line| line.contains("\"millrace-agent\""));
    let bytes = of_agent.map(|line| {
        let field = line.split_whitespace().find_map(|field| field.strip_prefix("bytes_received:"));
        field.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or_default()
    });
    let bytes: Vec<u64> = bytes.collect();
    ensure!(!bytes.is_empty(), "the agent of {} has no connection to {server}:\n{text}", node.name());
    Ok(bytes.iter().sum())
}
