//! A real Kubernetes cluster on one machine: the components that run everywhere, each node a set of namespaces.
//!
//! ```text
//!   client ── router ── switch ─┬─ control   etcd, API server, controllers, scheduler
//!                               ├─ node-1    containerd, kubelet, kube-proxy or Millrace, pods
//!                               └─ node-2    …
//! ```
//! Everything carries the cluster's name, so that several run side by side and [`down::remove`] finds all of one, also
//! when its maker was killed half way.
pub mod address;
pub mod api;
pub mod audit;
pub mod certificates;
pub mod component;
pub mod control_plane;
pub mod dns;
pub mod down;
pub mod fabric;
pub mod forward;
pub mod guard;
pub mod inventory;
mod manifest;
pub mod metrics;
pub mod millrace;
pub mod name;
pub mod node;
mod options;
pub mod place;
pub mod pod;
mod probe;
pub mod programs;
pub mod proxy;
mod ptp;
pub mod ready;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1 as core;

pub use self::{
    api::Api,
    name::ClusterName,
    node::{Iptables, Node},
    options::{Network, Options, Proxy},
};
use self::{
    component::Component,
    control_plane::{ControlPlane, Extent},
    fabric::Fabric,
    programs::Programs,
};
use crate::{kernel, machine::netns::Netns};

/// A cluster that is up. It stays up when this value is dropped.
#[derive(Debug)]
pub struct Cluster {
    name: ClusterName,
    options: Options,
    programs: Programs,
    fabric: Fabric,
    plane: ControlPlane,
    nodes: Vec<Node>,
    api: Api,
}

impl Cluster {
    /// Makes a cluster and waits until pods run in it; `progress` hears of each step.
    pub fn up(name: &ClusterName, options: &Options, progress: &dyn Fn(&str)) -> Result<Self> {
        let cluster = Self::start(name, options, progress)?;
        cluster.wait_until_ready(progress)?;
        Ok(cluster)
    }

    /// Makes a cluster without waiting for nodes and pods.
    pub fn start(name: &ClusterName, options: &Options, progress: &dyn Fn(&str)) -> Result<Self> {
        let unmet: Vec<String> = kernel::NETNS.iter().filter_map(|need| need.unmet()).collect();
        if !unmet.is_empty() {
            bail!("a cluster cannot run here: {}", unmet.join("; "));
        }
        let programs = Programs::find()?;
        let images = if options.nodes > 0 { programs.images()? } else { Vec::new() };
        options.check()?;
        claim(name)?;
        options.save(name)?;
        component::prepare(name)?;

        progress("control plane");
        let families = options.families;
        let fabric = Fabric::build(name, families)?;
        let netns = fabric.attach(name, control_plane::MACHINE, address::Family::control_plane)?;
        let plane = ControlPlane::start(name, netns, families, Extent::Whole, &programs)?;
        let api = Api::connect(&plane.kubeconfig())?;
        let nodes = options.new_nodes(name, &programs);
        let cluster =
            Self { name: name.clone(), options: options.clone(), programs, fabric, plane, nodes, api };

        progress("nodes: network, namespaces, container runtime, images");
        // At once, because they wait most of the time.
        std::thread::scope(|scope| {
            let starts: Vec<_> =
                cluster.nodes.iter().map(|node| scope.spawn(|| cluster.start_node(node, &images))).collect();
            starts.into_iter().try_for_each(|start| match start.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        progress("DNS, and what the nodes need from the API");
        cluster.install_objects()?;
        Ok(cluster)
    }

    /// The cluster of this name that is up.
    pub fn open(name: &ClusterName) -> Result<Self> {
        let options = Options::load(name)?;
        let programs = Programs::find()?;
        let fabric = Fabric::open(name, options.families)?;
        let plane = ControlPlane::open(name, options.families, Extent::Whole, &programs)?;
        let nodes = options.new_nodes(name, &programs);
        let api = Api::connect(&plane.kubeconfig())?;
        Ok(Self { name: name.clone(), options, programs, fabric, plane, nodes, api })
    }

    #[must_use]
    pub const fn name(&self) -> &ClusterName {
        &self.name
    }

    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The API, as its administrator.
    #[must_use]
    pub const fn api(&self) -> &Api {
        &self.api
    }

    #[must_use]
    pub const fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// What connects the machines, and the client outside.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let known = || self.nodes.iter().map(Node::name).collect::<Vec<_>>().join(", ");
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("cluster {} has no node {name:?}; it has: {}", self.name, known()))
    }

    /// Every program of the cluster, in the order of their start.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        let mut all = self.plane.components();
        for node in &self.nodes {
            all.extend(node.components());
            if self.options.proxy.mode().is_some() {
                all.push(node.component("kube-proxy"));
            }
        }
        all
    }

    /// `kubectl` as the administrator. It keeps its cache in the cluster's folder.
    pub fn kubectl(&self) -> Result<Command> {
        kubectl(&self.programs, &self.name)
    }

    /// Brings an image into every node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.load(archive))
    }

    /// Switches a node off, as a power failure does.
    pub fn power_off(&self, node: &Node) -> Result<()> {
        node.power_off(&self.fabric)
    }

    /// Switches a node on again: everything that the machine starts at boot.
    pub fn power_on(&self, node: &Node) -> Result<()> {
        node.power_on(&self.fabric)?;
        if self.options.network == Network::Ptp {
            self.route_from(node)?;
        }
        node.start_kubelet()?;
        self.start_proxy(node)
    }

    /// Starts kube-proxy on a node, also after it was killed; nothing where the proxy is no program of the host.
    pub fn start_proxy(&self, node: &Node) -> Result<()> {
        let Some(mode) = self.options.proxy.mode() else { return Ok(()) };
        proxy::start_on_node(node, mode, &self.plane)
    }

    /// Takes the cluster away.
    pub fn down(self) -> Result<()> {
        down::remove(&self.name)
    }

    fn start_node(&self, node: &Node, images: &[PathBuf]) -> Result<()> {
        node.install(self.plane.authority(), &self.plane.server())?;
        if self.options.network == Network::Ptp {
            ptp::install(node, self.options.families)?;
        }
        self.api.cluster_wide::<core::Node>().create(&node.object())?;
        node.power_on(&self.fabric)?;
        images.iter().try_for_each(|image| node.load(image))?;
        node.start_kubelet()?;
        self.start_proxy(node)
    }

    fn install_objects(&self) -> Result<()> {
        // As on a routed network, pods reach the API without being masqueraded. The client outside knows no pod.
        self.nodes.iter().try_for_each(|node| node.route_from(self.plane.netns()))?;
        if self.options.network == Network::Ptp {
            self.nodes.iter().try_for_each(|node| self.route_from(node))?;
        }
        if self.options.network == Network::Millrace {
            self.install_millrace()?;
        }
        proxy::allow(&self.api)?;
        if self.nodes.is_empty() {
            Ok(())
        } else {
            self.api.apply_yaml(&dns::manifest(self.options.families))
        }
    }

    /// Routes of the reference network, from one node to the pods of the others.
    fn route_from(&self, node: &Node) -> Result<()> {
        let netns = Netns::open(&self.name.part(&node.name()))?;
        let mut others = self.nodes.iter().filter(|other| other.name() != node.name());
        others.try_for_each(|other| other.route_from(&netns))
    }
}

/// `kubectl` as the administrator of a cluster.
pub fn kubectl(programs: &Programs, name: &ClusterName) -> Result<Command> {
    let mut command = Command::new(programs.path("kubectl")?);
    command.arg("--kubeconfig").arg(control_plane::kubeconfig(name));
    command.arg("--cache-dir").arg(name.folder().join("kubectl"));
    Ok(command)
}

/// Takes the name for a new cluster; its folder says that it is taken.
fn claim(name: &ClusterName) -> Result<()> {
    if down::present()?.contains(name) {
        bail!(
            "cluster {name} is up already, or was left by a start that was interrupted: \
             `cargo xtask cluster down --name {name}` removes it"
        );
    }
    let folders = ClusterName::folders();
    fs::create_dir_all(&folders).with_context(|| format!("create {}", folders.display()))?;
    let folder = name.folder();
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))
}
