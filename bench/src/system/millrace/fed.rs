//! Millrace fed by an API server, as in a cluster.
use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use harness::topology::{AgentOptions, Pod};
use serde_json::{Value, json};

use super::{LOADING, Millrace, v4};
use crate::{
    baseline::real::Cluster,
    system::{
        Setup,
        routed::RoutedNode,
        services::{ENDPOINTS, NAMESPACE, ServiceSet},
    },
};

impl Millrace {
    /// Builds it on manifests, then starts the agent anew on an API server that has the same objects.
    pub(crate) fn fed_by_api(setup: Setup) -> Result<Self> {
        let expected: Vec<Ipv4Addr> = (0..ENDPOINTS).map(RoutedNode::server_addr).collect();
        let cluster = Cluster::for_routed(setup.services)?;
        // A pod of the API server has the UID that the server gives it, and is attached with that.
        let api = cluster.control_plane().api();
        let uid = |name: &str, app: &str| {
            let created = api.ensure(&pod(name, app))?;
            let uid = created["metadata"]["uid"].as_str().context("the API server gives pods a UID")?;
            Ok(Some(uid.to_owned()))
        };
        // The services come from the API server alone; one is needed to see the agent work.
        let one = Setup { services: ServiceSet { count: 1 }, ..setup };
        let built = Self::with_pods(one, uid)?;
        let addresses: Vec<Ipv4Addr> = built.servers.iter().map(|server| v4(server)).collect();
        ensure!(
            addresses == expected,
            "the pods have the addresses {addresses:?}, and the endpoints of the API server's services are {expected:?}"
        );
        api.ensure(&built.node_object())?;
        let pods = std::iter::once(&built.client).chain(&built.servers);
        pods.into_iter().try_for_each(|pod| api.merge_status(&running(pod)))?;
        cluster.cable(built.node_of().netns())?;
        let system = Self { setup, cluster: Some(cluster), ..built };
        system.node_of().stop_agent()?;
        system.node_of().spawn_agent(&system.agent_options())?;
        system.await_services(Instant::now() + LOADING)?;
        Ok(system)
    }

    /// Where the agent learns of the cluster.
    pub(super) fn agent_options(&self) -> AgentOptions {
        let kubeconfig = self.cluster.as_ref().map(|cluster| cluster.control_plane().kubeconfig());
        AgentOptions { kubeconfig, ..AgentOptions::default() }
    }

    fn node_object(&self) -> Value {
        let spec = self.node_of().spec();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": spec.name },
            "spec": { "podCIDR": spec.pod_cidrs[0], "podCIDRs": spec.pod_cidrs },
            "status": { "addresses": [
                { "type": "InternalIP", "address": spec.v4 },
                { "type": "InternalIP", "address": spec.v6 },
            ] },
        })
    }
}

fn pod(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "app": app } },
        "spec": { "nodeName": "node-1", "containers": [{ "name": "main", "image": "none" }] },
    })
}

/// What a kubelet says of a pod that runs.
fn running(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.ips().iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": NAMESPACE, "name": pod.name() },
        "status": {
            "phase": "Running",
            "podIP": v4(pod),
            "podIPs": ips,
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}
