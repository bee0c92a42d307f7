//! Waiting for a cluster: for its nodes, and for its DNS, which shows that pods run and reach the API.
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::{apps::v1::Deployment, core::v1 as core};

use super::{Cluster, Network, Proxy, dns};

/// On a machine that is busy with other things, too.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

impl Cluster {
    /// Waits until every node is ready and DNS answers. Without a network or a proxy neither can be.
    pub fn wait_until_ready(&self, progress: &dyn Fn(&str)) -> Result<()> {
        if self.options().network == Network::None {
            return Ok(());
        }
        if self.options().network == Network::Millrace {
            progress("waiting for Millrace");
            self.wait_for_millrace()?;
        }
        progress("waiting for the nodes");
        for node in self.nodes() {
            self.wait_for_node(&node.name())?;
        }
        if self.options().proxy == Proxy::None || self.nodes().is_empty() {
            return Ok(());
        }
        progress("waiting for DNS");
        self.wait_for_deployment(dns::NAMESPACE, dns::DEPLOYMENT)
    }

    /// Waits until a node is ready.
    pub fn wait_for_node(&self, name: &str) -> Result<()> {
        let nodes = self.api().cluster_wide::<core::Node>();
        nodes.wait(name, "is ready", PATIENCE, is_ready).map(drop)
    }

    /// Waits until all pods of a Deployment are ready.
    pub fn wait_for_deployment(&self, namespace: &str, name: &str) -> Result<()> {
        let deployments = self.api().namespaced::<Deployment>(namespace);
        deployments.wait(name, "is complete", PATIENCE, is_complete).map(drop)
    }
}

fn is_ready(node: &core::Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Whether a pod is ready.
#[must_use]
pub fn is_ready_pod(pod: &core::Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

fn is_complete(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.ready_replicas.unwrap_or(0) == wanted
}
