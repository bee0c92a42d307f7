//! What goes on while agents die, stop and follow each other: connections of every kind, new and old, allowed and forbidden.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    probe::{
        client::Probe,
        wire::{LoadPlan, LoadReport, Target, Transport},
    },
    topology::{Pod, Topology},
};

/// Where every server listens.
pub const PORT: u16 = 80;

/// Servers on both nodes behind a Service, a server that admits nobody, and clients on both nodes.
#[derive(Debug)]
pub struct Stage {
    pub topology: Topology,
    pub clients: Vec<Arc<Pod>>,
    pub servers: Vec<Arc<Pod>>,
    pub locked: Arc<Pod>,
    pub frontends: [SocketAddr; 2],
}

impl Stage {
    /// Makes it, with an agent on each node.
    pub fn build() -> Result<Self> {
        Self::on(Topology::start()?)
    }

    /// The same on nodes that are there.
    pub fn on(topology: Topology) -> Result<Self> {
        let pod = |name: &str, app: &str, node| -> Result<Arc<Pod>> {
            let pod = topology.add_pod(PodSpec::new("default", name).label("app", app).on(node))?;
            for transport in [Transport::Tcp, Transport::Udp] {
                pod.probe().listen(transport, PORT)?;
            }
            Ok(pod)
        };
        let servers = vec![pod("server-0", "server", 0)?, pod("server-1", "server", 1)?];
        let clients = vec![pod("client-0", "client", 0)?, pod("client-1", "client", 1)?];
        let locked = pod("locked", "locked", 0)?;
        let service = ServiceSpec::new("default", "server").select("app", "server");
        let service = service.port(Protocol::Tcp, PORT, PORT).port(Protocol::Udp, PORT, PORT);
        let ips = topology.control_plane.apply_service(&service)?;
        for (name, spec) in [
            (
                "locked",
                json!({ "podSelector": { "matchLabels": { "app": "locked" } }, "policyTypes": ["Ingress"] }),
            ),
            (
                // The servers are policed, so that their flows are tracked.
                "server",
                json!({
                    "podSelector": { "matchLabels": { "app": "server" } },
                    "policyTypes": ["Ingress"],
                    "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
                }),
            ),
        ] {
            topology.control_plane.apply(&json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": { "namespace": "default", "name": name },
                "spec": spec,
            }))?;
        }
        topology.settle()?;
        let frontends = ips.both().map(|ip| SocketAddr::new(ip, PORT));
        Ok(Self { topology, clients, servers, locked, frontends })
    }

    /// Old and new connections by every way, and one that is forbidden.
    pub fn begin_load(&self) -> Result<()> {
        self.begin_load_of(Duration::from_millis(20), Duration::from_secs(2))
    }

    /// The same, each request `interval` after the one before and lost after `timeout`.
    pub fn begin_load_of(&self, interval: Duration, timeout: Duration) -> Result<()> {
        for client in self.probes() {
            let pods = self.servers.iter().flat_map(|server| server.at(PORT));
            let to = self.frontends.iter().copied().chain(pods);
            let allowed: Vec<Target> = to.flat_map(|to| [Target::tcp(to), Target::udp(to)]).collect();
            client.start_load(&LoadPlan {
                long_lived: allowed.clone(),
                fresh: allowed,
                forbidden: self
                    .locked
                    .at(PORT)
                    .into_iter()
                    .flat_map(|to| [Target::tcp(to), Target::udp(to)])
                    .collect(),
                interval,
                timeout,
            })?;
        }
        Ok(())
    }

    /// Ends the load, and says what became of all of it.
    pub fn end_load(&self) -> Result<LoadReport> {
        let mut total = LoadReport::default();
        for client in self.probes() {
            total.add(&client.stop_load()?);
        }
        Ok(total)
    }

    fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.clients.iter().map(|client| client.probe())
    }
}
