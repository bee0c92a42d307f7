//! The real kube-proxy on a node, fed by a control plane.
use std::{
    cell::{Cell, RefCell},
    net::Ipv4Addr,
    rc::{Rc, Weak},
};

use anyhow::{Context as _, Result};
use millrace_tests::machine::netns::Netns;
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

/// A control plane that has a set of services, shared by all nodes that want the same.
pub(crate) struct Cluster {
    services: ServiceSet,
    servers: Vec<Ipv4Addr>,
    control_plane: ControlPlane,
    cabled: Cell<u8>,
}

thread_local! {
    /// Clusters that somebody still uses. Feeding one takes minutes.
    static CLUSTERS: RefCell<Vec<Weak<Cluster>>> = const { RefCell::new(Vec::new()) };
}

impl Cluster {
    /// The control plane that has these services with these servers; started and fed if there is none.
    pub(crate) fn shared(services: ServiceSet, servers: &[Ipv4Addr]) -> Result<Rc<Self>> {
        let fits = |cluster: &Rc<Self>| cluster.services == services && cluster.servers == servers;
        let found = CLUSTERS.with_borrow(|all| all.iter().filter_map(Weak::upgrade).find(fits));
        if let Some(cluster) = found {
            return Ok(cluster);
        }
        let control_plane = ControlPlane::start()?;
        control_plane.api().create(&[namespace(NAMESPACE)])?;
        control_plane.api().create(&all_objects(services, servers))?;
        let cluster =
            Rc::new(Self { services, servers: servers.to_vec(), control_plane, cabled: Cell::new(0) });
        CLUSTERS.with_borrow_mut(|all| {
            all.retain(|other| other.strong_count() > 0);
            all.push(Rc::downgrade(&cluster));
        });
        Ok(cluster)
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
        let servers: Vec<Ipv4Addr> = endpoints.iter().map(|endpoint| self.servers[*endpoint]).collect();
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
        let servers: Vec<Ipv4Addr> = (0..ENDPOINTS).map(RoutedNode::server_addr).collect();
        let cluster = Cluster::shared(services, &servers)?;
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
