//! The real kube-proxy on a node, fed by a control plane.
use std::{
    cell::{Cell, OnceCell, RefCell},
    net::Ipv4Addr,
    rc::{Rc, Weak},
};

use anyhow::{Context as _, Result, anyhow};
use harness::machine::netns::Netns;
use serde_json::{Value, json};

use super::{
    binaries::Binaries,
    control_plane::ControlPlane,
    daemon::{KubeProxy, NODE},
};
use crate::system::{
    Backend, objects,
    routed::{NODE_ADDR, RoutedNode},
    services::{ENDPOINTS, NAMESPACE, ServiceSet},
};

/// A control plane with the objects of a benchmark.
pub(crate) struct Cluster {
    control_plane: ControlPlane,
    /// What it was filled with.
    filled: OnceCell<(ServiceSet, Vec<Ipv4Addr>)>,
    cabled: Cell<u8>,
}

thread_local! {
    /// Clusters that somebody still uses. Feeding one takes minutes.
    static CLUSTERS: RefCell<Vec<Weak<Cluster>>> = const { RefCell::new(Vec::new()) };
}

impl Cluster {
    /// Starts a control plane that has the namespace of the benchmarks and nothing else.
    fn start() -> Result<Self> {
        let control_plane = ControlPlane::start()?;
        control_plane.api().create(&[namespace(NAMESPACE)])?;
        Ok(Self { control_plane, filled: OnceCell::new(), cabled: Cell::new(0) })
    }

    /// Makes all services, with these servers as their endpoints.
    fn fill(&self, services: ServiceSet, servers: &[Ipv4Addr]) -> Result<()> {
        let took = self.control_plane.api().create(&all_objects(services, servers))?;
        eprintln!("    an API server was fed with {} services, {took:.1?}", services.count);
        let filled = self.filled.set((services, servers.to_vec()));
        filled.map_err(|_| anyhow!("the cluster has its services already"))
    }

    /// A control plane that has these services with these servers; one that is there already if it has them.
    fn shared(services: ServiceSet, servers: &[Ipv4Addr]) -> Result<Rc<Self>> {
        let fits = |cluster: &Rc<Self>| {
            cluster.filled.get().is_some_and(|(set, with)| (*set, with.as_slice()) == (services, servers))
        };
        let found = CLUSTERS.with_borrow(|all| all.iter().filter_map(Weak::upgrade).find(fits));
        if let Some(cluster) = found {
            return Ok(cluster);
        }
        let cluster = Rc::new(Self::start()?);
        cluster.fill(services, servers)?;
        CLUSTERS.with_borrow_mut(|all| {
            all.retain(|other| other.strong_count() > 0);
            all.push(Rc::downgrade(&cluster));
        });
        Ok(cluster)
    }

    /// The control plane whose services have the servers of routed nodes.
    pub(crate) fn for_routed(services: ServiceSet) -> Result<Rc<Self>> {
        let servers: Vec<Ipv4Addr> = (0..ENDPOINTS).map(RoutedNode::server_addr).collect();
        Self::shared(services, &servers)
    }

    pub(crate) const fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Cables a node's namespace to the API server.
    pub(crate) fn cable(&self, node: &Netns) -> Result<()> {
        let number = self.cabled.get().checked_add(1).context("no address is left for another node")?;
        self.cabled.set(number);
        self.control_plane.cable(node, number)
    }

    /// Gives a service these endpoints; returns when the API server has it.
    pub(crate) fn set_endpoints(&self, service: usize, endpoints: &[usize]) -> Result<()> {
        let (_, all) = self.filled.get().context("the cluster has no services yet")?;
        let servers: Vec<Ipv4Addr> = endpoints.iter().map(|endpoint| all[*endpoint]).collect();
        self.control_plane.api().merge(&objects::slice(service, &servers))
    }
}

fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

fn all_objects(services: ServiceSet, servers: &[Ipv4Addr]) -> Vec<Value> {
    let numbered =
        (0..services.count).flat_map(|index| [objects::service(index), objects::slice(index, servers)]);
    numbered.chain(servers.first().into_iter().flat_map(|server| objects::single(*server))).collect()
}

/// kube-proxy on one node.
pub(crate) struct Real {
    backend: Backend,
    daemon: RefCell<Option<KubeProxy>>,
    cluster: Rc<Cluster>,
}

impl Real {
    pub(crate) fn start(backend: Backend, services: ServiceSet, node: &RoutedNode) -> Result<Self> {
        let cluster = Cluster::for_routed(services)?;
        cluster.cable(node.node())?;
        let known = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": NODE },
            "status": { "addresses": [{ "type": "InternalIP", "address": NODE_ADDR }] },
        });
        cluster.control_plane().api().ensure(&known)?;
        let real = Self { backend, daemon: RefCell::new(None), cluster };
        real.start_again(node)?;
        Ok(real)
    }

    /// Starts kube-proxy, which does not run.
    pub(crate) fn start_again(&self, node: &RoutedNode) -> Result<()> {
        let binary = Binaries::find()?.kube;
        let kubeconfig = self.cluster.control_plane().kubeconfig();
        let folder = node.run().folder();
        let daemon = KubeProxy::start(&binary, self.backend, &kubeconfig, node.node_place(), &folder)?;
        self.daemon.replace(Some(daemon));
        Ok(())
    }

    /// Ends kube-proxy; its rules stay.
    pub(crate) fn stop(&self) {
        self.daemon.replace(None);
    }

    pub(crate) fn require_running(&self) -> Result<()> {
        self.daemon.borrow_mut().as_mut().context("kube-proxy was stopped")?.require_running()
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.daemon.borrow().as_ref().map(KubeProxy::pid).context("kube-proxy was stopped")
    }

    pub(crate) fn set_endpoints(&self, service: usize, endpoints: &[usize]) -> Result<()> {
        self.cluster.set_endpoints(service, endpoints)
    }
}
