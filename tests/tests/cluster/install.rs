//! Millrace as an operator installs it, lives with it and removes it: on a cluster that has neither a network nor a
//! kube-proxy.
use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Network, Node, Options, Proxy, guard::Guard},
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node as NodeObject, Pod},
};
use serde_json::json;

use crate::shared::{PATIENCE, in_pod, own_name, wait_for_pod};

const UNINSTALL: &str = include_str!("../../../deploy/manifests/uninstall.yaml");

/// `NET_ADMIN`, `PERFMON` and `BPF`, as `/proc/PID/status` writes a set of capabilities.
const CAPABILITIES: &str = "000000c000001000";

/// A server behind a service on one node, and a client on the other.
const OBJECTS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: server, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve, --tcp=80]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve]}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80}]}
";

/// All pods of a DaemonSet are ready.
fn rolled_out(cluster: &Cluster, name: &str) -> Result<()> {
    let sets = cluster.api().namespaced::<DaemonSet>("kube-system");
    let wanted = i32::try_from(cluster.nodes().len())?;
    let ready = sets.wait(name, "is ready on every node", PATIENCE, |set| {
        let generation = set.metadata.generation;
        set.status.as_ref().is_some_and(|status| {
            status.observed_generation == generation
                && status.number_ready == wanted
                && status.updated_number_scheduled == Some(wanted)
        })
    });
    ready.map(drop).with_context(|| said_by(cluster, name))
}

/// What the pods of a DaemonSet said, for whoever reads a failed test.
fn said_by(cluster: &Cluster, name: &str) -> String {
    let logs = cluster.kubectl().and_then(|mut kubectl| {
        let selector = format!("app.kubernetes.io/name={name}");
        kubectl.args([
            "-n",
            "kube-system",
            "logs",
            "--all-containers",
            "--prefix",
            "--tail=40",
            "-l",
            &selector,
        ]);
        Ok(kubectl.output()?)
    });
    logs.map_or_else(
        |error| format!("{error:#}"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Whether a node is ready, and why not.
fn network_of(cluster: &Cluster, node: &Node) -> Result<(bool, String)> {
    let object = cluster.api().cluster_wide::<NodeObject>().get(&node.name())?;
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.context("a node without the condition Ready")?;
    Ok((ready.status == "True", ready.message.unwrap_or_default()))
}

fn becomes(cluster: &Cluster, node: &Node, ready: bool, words: &str) -> Result<()> {
    eventually(format!("{} is ready: {ready}", node.name()), PATIENCE, || {
        let (is, message) = network_of(cluster, node)?;
        if is == ready && message.contains(words) { Ok(()) } else { bail!("it is {is}: {message}") }
    })
}

fn answers(cluster: &Cluster) -> Result<()> {
    eventually("the client asks the service by its name", PATIENCE, || {
        in_pod(cluster, "client", &["ask", "tcp", "server:80"])
    })
    .map(drop)
}

#[test]
fn a_cluster_without_network_and_kube_proxy_gets_both_and_gives_them_up_again() -> Result<()> {
    let name = own_name("install");
    let _guard = Guard::set(&name)?;
    let options = Options { proxy: Proxy::None, network: Network::None, ..Options::default() };
    let cluster = Cluster::start(&name, &options, &|step| eprintln!("{name}: {step}"))?;
    let node = cluster.node("node-1")?;
    becomes(&cluster, node, false, "cni plugin not initialized")?;

    cluster.install_millrace()?;
    rolled_out(&cluster, "millrace")?;
    route_pods(&cluster)?;
    for node in cluster.nodes() {
        becomes(&cluster, node, true, "")?;
    }
    cluster.api().apply_yaml(OBJECTS)?;
    for pod in ["server", "client"] {
        wait_for_pod(&cluster, pod)?;
    }
    answers(&cluster)?;
    has_least_privilege(node)?;

    // Without an agent the runtime is told so; what runs goes on.
    let sets = cluster.api().namespaced::<DaemonSet>("kube-system");
    let nowhere = json!({ "spec": { "template": { "spec": { "nodeSelector": { "nowhere": "" } } } } });
    sets.patch("millrace", &nowhere)?;
    becomes(&cluster, node, false, "millrace-agent does not answer")?;
    answers(&cluster)?;
    let anywhere = json!({ "spec": { "template": { "spec": { "nodeSelector": { "nowhere": null } } } } });
    sets.patch("millrace", &anywhere)?;
    rolled_out(&cluster, "millrace")?;
    becomes(&cluster, node, true, "")?;

    // A node that boots finds the API server before any service works.
    cluster.power_off(node)?;
    cluster.power_on(node)?;
    becomes(&cluster, node, true, "")?;
    rolled_out(&cluster, "millrace")?;
    answers(&cluster)?;

    uninstall(&cluster)?;
    cluster.down()
}

/// The control plane is a machine of its own, without Millrace; its network knows where pods are.
fn route_pods(cluster: &Cluster) -> Result<()> {
    cluster.nodes().iter().try_for_each(|node| {
        let family = cluster.options().families.first();
        let route = format!("route replace {} via {}\n", node.pod_cidr(family), node.address(family));
        cluster.plane().netns().ip(&route)
    })
}

/// The agent's process may do what it must, and nothing else.
fn has_least_privilege(node: &Node) -> Result<()> {
    let mut sh = Command::new("sh");
    sh.args(["-c", "cat $(grep -l '^Name:.millrace-agent' /proc/[0-9]*/status | head -1)"]);
    // Every process of the machine is in the node's /proc: the one of its own namespace is meant.
    let status = String::from_utf8(node.run(sh)?.stdout)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in {status}"))
    };
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set)?, CAPABILITIES, "{set}");
    }
    assert_eq!(field("NoNewPrivs:")?, "1");
    assert_eq!(field("Seccomp:")?, "2", "a filter is on");
    Ok(())
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    cluster.api().delete_yaml(OBJECTS)?;
    for pod in ["server", "client"] {
        cluster.api().namespaced::<Pod>("default").wait_gone(pod, PATIENCE)?;
    }
    let kubectl = |arguments: &[&str]| -> Result<()> {
        let output = cluster.kubectl()?.args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    kubectl(&["-n", "kube-system", "scale", "deployment/coredns", "--replicas=0"])?;
    kubectl(&["-n", "kube-system", "delete", "daemonset/millrace", "--wait", "--cascade=foreground"])?;
    cluster.api().apply_yaml(UNINSTALL)?;
    rolled_out(cluster, "millrace-uninstall")?;
    for node in cluster.nodes() {
        let root = node.root()?;
        let is_there = |path: &str| root.join(path).exists();
        for path in ["sys/fs/bpf/millrace", "opt/cni/bin/millrace-cni", "etc/cni/net.d/05-millrace.conflist"]
        {
            assert!(!is_there(path), "{path} is left on {}", node.name());
        }
        for folder in ["run/millrace", "var/lib/millrace"] {
            let left: Vec<_> = fs::read_dir(root.join(folder))?.collect();
            assert!(left.is_empty(), "{folder} of {}: {left:?}", node.name());
        }
        becomes(cluster, node, false, "cni plugin not initialized")?;
    }
    Ok(())
}
