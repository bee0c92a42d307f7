//! A namespace that a test has for itself in the cluster that all of them share, and what tests put there.
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, api::Object},
    probe::{
        client::Probe,
        wire::{Outcome, Target},
    },
};
use k8s_openapi::api::core::v1 as core;

use crate::shared::PATIENCE;

/// How long silence lasts before it counts as silence.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// How long an answer may take on a busy machine.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// A namespace; gone when dropped.
pub(crate) struct Ground {
    cluster: &'static Cluster,
    name: String,
}

impl Ground {
    /// Makes the namespace, and waits until pods can be made there.
    pub(crate) fn new(cluster: &'static Cluster, name: &str) -> Result<Self> {
        Self::labelled(cluster, name, "")
    }

    /// The same, with labels as YAML has them.
    pub(crate) fn labelled(cluster: &'static Cluster, name: &str, labels: &str) -> Result<Self> {
        let ground = Self { cluster, name: name.to_owned() };
        ground.set_labels(labels)?;
        let accounts = cluster.api().namespaced::<core::ServiceAccount>(name);
        accounts.wait("default", "exists", PATIENCE, |_| true)?;
        Ok(ground)
    }

    pub(crate) fn set_labels(&self, labels: &str) -> Result<()> {
        let name = &self.name;
        self.cluster.api().apply_yaml(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
        ))
    }

    pub(crate) fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes every object of a YAML text be as it is there, in this namespace.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.api().apply_yaml_in(&self.name, yaml)
    }

    /// Objects of this namespace.
    pub(crate) fn objects<K>(&self) -> harness::kubernetes::api::Objects<'_, K>
    where
        K: Object + kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        self.cluster.api().namespaced(&self.name)
    }

    pub(crate) fn wait_for_pod(&self, pod: &str) -> Result<core::Pod> {
        self.objects().wait(pod, "is ready", PATIENCE, is_ready)
    }

    /// A process in a pod that is ready.
    pub(crate) fn probe(&self, pod: &str) -> Result<Probe> {
        self.wait_for_pod(pod)?;
        self.cluster.probe_in_pod(&self.name, pod)
    }

    /// The addresses of a pod that is ready.
    pub(crate) fn pod_addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let status = self.wait_for_pod(pod)?.status.unwrap_or_default();
        let addresses = status.pod_ips.unwrap_or_default();
        addresses.iter().map(|address| parse(&address.ip)).collect()
    }

    /// The addresses of a Service.
    pub(crate) fn service_addresses(&self, service: &str) -> Result<Vec<IpAddr>> {
        let spec = self.objects::<core::Service>().get(service)?.spec.unwrap_or_default();
        spec.cluster_ips.unwrap_or_default().iter().map(|address| parse(address)).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What remains goes with the cluster.
        let _ = self.cluster.api().cluster_wide::<core::Namespace>().delete(&self.name);
    }
}

fn parse(address: &str) -> Result<IpAddr> {
    address.parse().with_context(|| format!("address {address:?}"))
}

fn is_ready(pod: &core::Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// A pod of one container on a node. Labels and arguments are as YAML has them.
pub(crate) fn pod(name: &str, node: &str, labels: &str, arguments: &str) -> String {
    pod_with(name, node, labels, arguments, "", "")
}

/// The same, with more fields of the pod's spec and of its container, such as `hostNetwork: true`.
pub(crate) fn pod_with(
    name: &str,
    node: &str,
    labels: &str,
    arguments: &str,
    spec: &str,
    container: &str,
) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 1, {spec} containers: [{{name: main, \
         image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [{arguments}], {container}}}]}}\n---\n"
    )
}

/// TCP to a port of each address.
pub(crate) fn tcp(addresses: &[IpAddr], port: u16) -> Vec<Target> {
    addresses.iter().map(|address| Target::tcp(SocketAddr::new(*address, port))).collect()
}

/// UDP to a port of each address.
pub(crate) fn udp(addresses: &[IpAddr], port: u16) -> Vec<Target> {
    addresses.iter().map(|address| Target::udp(SocketAddr::new(*address, port))).collect()
}

/// Waits until every target gives what is wanted; those who change what is there wait for it once.
pub(crate) fn becomes(
    probe: &Probe,
    targets: &[Target],
    timeout: Duration,
    wanted: impl Fn(&Outcome) -> bool,
) -> Result<()> {
    eventually(format!("{} is content", probe.name()), PATIENCE, || gives(probe, targets, timeout, &wanted))
}

/// An error unless every target gives what is wanted.
pub(crate) fn gives(
    probe: &Probe,
    targets: &[Target],
    timeout: Duration,
    wanted: impl Fn(&Outcome) -> bool,
) -> Result<()> {
    for (target, outcome) in targets.iter().zip(probe.probe(targets, timeout)?) {
        ensure!(wanted(&outcome), "{} asks {:?} {}: {outcome}", probe.name(), target.transport, target.to);
    }
    Ok(())
}

/// Tells a figure to whoever runs the tests, also when they succeed: the harness swallows what `println!` prints.
pub(crate) fn tell(line: &str) {
    use std::io::Write as _;
    // Nobody listens: nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}
