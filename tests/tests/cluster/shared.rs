//! The cluster that the tests share, and pods in it.
use std::{process::Stdio, sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result, bail};
use harness::kubernetes::{
    Cluster, ClusterName, Iptables, Network, Options, Proxy, address::Families, guard::Guard,
};
use k8s_openapi::api::core::v1::Pod;

/// How long a pod may take to run, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A name that no other run has.
pub(crate) fn own_name(part: &str) -> ClusterName {
    format!("test-{}-{part}", std::process::id()).parse().expect("a plain name")
}

/// A cluster with kube-proxy and the reference network. It is made for the first test that asks, and goes away when
/// this process ends.
pub(crate) fn reference() -> &'static Cluster {
    static CLUSTER: OnceLock<(Cluster, Guard)> = OnceLock::new();
    let make = || -> Result<(Cluster, Guard)> {
        let name = own_name("ref");
        let guard = Guard::set(&name)?;
        let options =
            Options { proxy: Proxy::Iptables(Iptables::Nft), network: Network::Ptp, ..Options::default() };
        let cluster = Cluster::up(&name, &options, &|step| eprintln!("{name}: {step}"))?;
        Ok((cluster, guard))
    };
    &CLUSTER.get_or_init(|| make().expect("a cluster")).0
}

/// Two nodes of both families with Millrace as their network and proxy, installed as users install it. It is made and
/// goes away as the other one.
pub(crate) fn millrace() -> &'static Cluster {
    static CLUSTER: OnceLock<(Cluster, Guard)> = OnceLock::new();
    let make = || -> Result<(Cluster, Guard)> {
        let name = own_name("millrace");
        let guard = Guard::set(&name)?;
        let options = Options { families: Families::Dual, ..Options::default() };
        let cluster = Cluster::up(&name, &options, &|step| eprintln!("{name}: {step}"))?;
        Ok((cluster, guard))
    };
    &CLUSTER.get_or_init(|| make().expect("a cluster")).0
}

/// Runs the program of a test pod inside it, and returns what it prints.
pub(crate) fn in_pod(cluster: &Cluster, pod: &str, arguments: &[&str]) -> Result<String> {
    in_pod_of(cluster, "default", pod, arguments)
}

/// The same in a pod of any namespace.
pub(crate) fn in_pod_of(cluster: &Cluster, namespace: &str, pod: &str, arguments: &[&str]) -> Result<String> {
    let mut kubectl = cluster.kubectl()?;
    kubectl
        .args(["exec", "--namespace", namespace, pod, "--", "/workload"])
        .args(arguments)
        .stdin(Stdio::null());
    let output = kubectl.output().context("run kubectl")?;
    if !output.status.success() {
        bail!("in {pod}: {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a pod that serves on port 80, and waits until it is ready.
pub(crate) fn run_pod(cluster: &Cluster, name: &str, node: &str) -> Result<Pod> {
    cluster.api().apply_yaml(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{pod: {name}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: workload\n    \
         image: localhost/millrace/workload:test\n    imagePullPolicy: Never\n    args: [serve, --tcp=80, --udp=80]\n"
    ))?;
    wait_for_pod(cluster, name)
}

/// Waits until a pod is ready.
pub(crate) fn wait_for_pod(cluster: &Cluster, name: &str) -> Result<Pod> {
    cluster.api().namespaced::<Pod>("default").wait(name, "is ready", PATIENCE, |pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|conditions| {
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
    })
}
