//! A cluster on one machine: nodes, a fabric between them and a client outside, each a network namespace; real
//! agents, the real CNI binary, real connections.
//!
//! ```text
//!            client 203.0.113.10
//!                 |
//!   fabric: router and switch, 192.168.77.1
//!      |                       |
//!   node-1 192.168.77.11    node-2 192.168.77.12        each with agent, cgroup root, bpffs, manifests
//!      |  10.244.1.0/24        |  10.244.2.0/24
//!     pods                    pods
//! ```
//! Everything is named after the run and removed when the topology is dropped, also while a test panics.
mod agent;
mod cni;
mod command_line;
mod fabric;
mod inspect;
mod node;
mod pod;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use self::fabric::Fabric;
pub use self::{
    agent::{AgentOptions, Ended},
    cni::{CniCall, CniError, CniResult},
    command_line::Shown,
    fabric::{CLIENT_V4, CLIENT_V6},
    inspect::Maps,
    node::Node,
    pod::{Pod, PodMacs},
};
use crate::{
    cluster::{BARRIER_IP, ControlPlane, PodSpec},
    eventually::{PATIENCE, eventually},
    machine::{
        cgroup::{self, Cgroup},
        process::Place,
        run::{Run, remove_dead},
    },
    probe::client::Probe,
};

/// How to build a topology.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    /// Every node but the first is in a subnet of its own, behind the fabric's router.
    pub apart: bool,
    /// Processes may outlive this one, so that the topology can be left up (by forgetting it) for people to look at.
    /// [`remove_dead`] removes it later.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, apart: false, keep: false }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Topology {
    run: Run,
    outlives: bool,
    pub control_plane: ControlPlane,
    pods: Mutex<BTreeMap<(String, String), Arc<Pod>>>,
    /// A process outside the cluster.
    client: Option<Probe>,
    nodes: Vec<Node>,
    fabric: Option<Fabric>,
    /// For processes that no node's socket programs see.
    outside: Option<Cgroup>,
    cgroup: Option<Cgroup>,
}

impl Topology {
    /// Builds namespaces, cgroups and mounts, and the Node objects. No agent runs yet.
    pub fn build(options: &Options) -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| {
            if let Err(error) = remove_dead(false) {
                eprintln!("remove what killed runs left: {error:#}");
            }
        });
        let run = Run::unique();
        fs::create_dir(run.folder()).with_context(|| format!("create {}", run.folder().display()))?;
        if options.keep {
            run.keep()?;
        }
        // From here on `drop` removes whatever was made before a failure.
        let mut topology = Self {
            run,
            outlives: options.keep,
            control_plane: ControlPlane::default(),
            pods: Mutex::default(),
            client: None,
            nodes: Vec::new(),
            fabric: None,
            outside: None,
            cgroup: None,
        };
        let run = topology.run.clone();
        let group = Cgroup::create(&cgroup::root()?, &run.to_string())?;
        let group = topology.cgroup.insert(group).path().to_owned();
        let outside = topology.outside.insert(Cgroup::create(&group, "outside")?);
        let fabric = topology.fabric.insert(Fabric::build(&run)?);
        let place =
            Place { netns: fabric.client(), cgroup: outside, outlives: options.keep, capabilities: None };
        topology.client = Some(Probe::start(&run, "client", place)?);
        for index in 0..options.nodes {
            let node = Node::build(&run, &group, fabric, index, options)?;
            topology.control_plane.add_directory(&node.manifests())?;
            topology.nodes.push(node);
        }
        for node in &topology.nodes {
            topology.control_plane.apply_node(node.spec())?;
        }
        topology.control_plane.apply_namespace("default", &[])?;
        Ok(topology)
    }

    /// Builds two nodes and starts their agents.
    pub fn start() -> Result<Self> {
        let topology = Self::build(&Options::default())?;
        topology.start_agents()?;
        Ok(topology)
    }

    /// Builds two nodes and starts their agents with these options.
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        let topology = Self::build(&Options::default())?;
        topology.nodes.iter().for_each(|node| node.start_agents_with(arguments));
        topology.start_agents()?;
        Ok(topology)
    }

    /// Starts the agent of every node and waits until all are ready.
    pub fn start_agents(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.spawn_agent(&AgentOptions::default()))?;
        self.nodes.iter().try_for_each(Node::await_agent)
    }

    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by index.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The process outside the cluster.
    #[must_use]
    pub const fn client(&self) -> &Probe {
        self.client.as_ref().expect("built")
    }

    /// The namespaces between the nodes and outside of them.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        self.fabric.as_ref().expect("built")
    }

    /// The group of processes that no node's socket programs see.
    #[must_use]
    pub const fn outside_cgroup(&self) -> &Cgroup {
        self.outside.as_ref().expect("built")
    }

    /// Creates a pod as a kubelet does: object, namespace, CNI ADD, addresses, process, ready.
    pub fn add_pod(&self, spec: PodSpec) -> Result<Arc<Pod>> {
        let pod = self.prepare_pod(spec)?;
        self.attach_pod(&pod)?;
        Ok(pod)
    }

    /// The first half of [`Self::add_pod`]: object, namespace and process, but no interface.
    pub fn prepare_pod(&self, mut spec: PodSpec) -> Result<Arc<Pod>> {
        let node = self.nodes.get(spec.node).with_context(|| format!("there is no node {}", spec.node))?;
        spec.node_name.clone_from(&node.spec().name);
        let key = (spec.namespace.clone(), spec.name.clone());
        if self.pods().contains_key(&key) {
            bail!("pod {}/{} exists", spec.namespace, spec.name);
        }
        let uid = self.control_plane.schedule_pod(&spec)?;
        let pod = Arc::new(Pod::build(&self.run, node, &spec, &uid, self.outlives)?);
        self.pods().insert(key, Arc::clone(&pod));
        Ok(pod)
    }

    /// The second half of [`Self::add_pod`]: CNI ADD, addresses, ready.
    pub fn attach_pod(&self, pod: &Pod) -> Result<()> {
        pod.attach(self.node(pod.node()))?;
        let ips = pod.ips().to_vec();
        self.control_plane.update_pod(pod.namespace(), pod.name(), |_, status| {
            status.ips = ips;
            status.ready = true;
        })
    }

    /// Deletes a pod as a kubelet does: CNI DEL, process and namespace, object.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        let pod = self.pods().remove(&key).with_context(|| format!("no pod {namespace}/{name}"))?;
        let detached = pod.detach(self.node(pod.node()));
        pod.remove();
        self.control_plane.delete_pod(namespace, name)?;
        detached
    }

    /// A pod that exists.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Arc<Pod> {
        let pods = self.pods();
        let pod = pods.get(&(namespace.to_owned(), name.to_owned()));
        Arc::clone(pod.unwrap_or_else(|| panic!("there is no pod {namespace}/{name}")))
    }

    /// A process in a pod's network that the node's socket programs do not see, as of a container runtime that
    /// puts its pods elsewhere: its connections are translated packet by packet.
    pub fn bystander(&self, pod: &Pod) -> Result<Probe> {
        let cgroup = self.outside_cgroup();
        let place = Place { netns: pod.netns(), cgroup, outlives: self.outlives, capabilities: None };
        Probe::start(&self.run, &format!("{} bystander", pod.probe().name()), place)
    }

    /// Sets a pod's readiness, as its kubelet reports it.
    pub fn set_ready(&self, pod: &Pod, ready: bool) -> Result<()> {
        self.control_plane.update_pod(pod.namespace(), pod.name(), |_, status| status.ready = ready)
    }

    /// Waits until everything applied so far is in the maps of every node.
    ///
    /// A node programs its Services and policies in one pass, in an order of its own; two marks, one after the other,
    /// make sure that the pass with the first one is over.
    pub fn settle(&self) -> Result<()> {
        for _ in 0..2 {
            let mark = self.control_plane.mark()?;
            for node in &self.nodes {
                let what = format!("{} has programmed all that was applied", node.spec().name);
                eventually(what, PATIENCE, || {
                    if !node.maps().has_frontend(BARRIER_IP, mark)? {
                        bail!("mark {mark} is not in its frontends");
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Removes everything and says what is left nonetheless.
    pub fn close(mut self) -> Result<()> {
        self.remove();
        let left = self.run.leftovers()?;
        if left.is_empty() { Ok(()) } else { bail!("{} left behind: {}", self.run, left.join(", ")) }
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<Pod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes everything, in the order of use. What is removed already stays so.
    fn remove(&mut self) {
        let pods = std::mem::take(self.pods.get_mut().unwrap_or_else(PoisonError::into_inner));
        for pod in pods.values() {
            pod.remove();
        }
        self.client = None;
        self.nodes.clear();
        self.fabric = None;
        self.outside = None;
        self.cgroup = None;
        if let Err(error) = fs::remove_dir_all(self.run.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("remove {}: {error}", self.run.folder().display());
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.remove();
        match self.run.leftovers() {
            Ok(left) if left.is_empty() => {}
            Ok(left) if std::thread::panicking() => {
                eprintln!("{} left behind: {}", self.run, left.join(", "));
            }
            Ok(left) => panic!("{} left behind: {}", self.run, left.join(", ")),
            Err(error) => eprintln!("look for what {} left behind: {error:#}", self.run),
        }
    }
}
