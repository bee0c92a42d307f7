//! Millrace: the agent on a directory of manifests, pods attached by the CNI plugin.
mod fed;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::maps::MapId;
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    machine::{netns::Netns, process::Place},
    topology::{Node, Options, Pod, Topology},
};
use serde_json::Value;

use super::{
    Ends, Footprint, Setup, System, objects,
    routed::apply_hygiene,
    services::{ENDPOINTS, NAMESPACE, SERVICE_PORT, ServiceSet},
};
use crate::{baseline::real::Cluster, measure::memory};

/// Objects per file, for those that never change.
const CHUNK: usize = 1000;
/// How long a set of services may take.
const LOADING: Duration = Duration::from_mins(5);

pub(crate) struct Millrace {
    setup: Setup,
    topology: Topology,
    client: Arc<Pod>,
    servers: Vec<Arc<Pod>>,
    /// Tells the agent what the cluster is, in place of a directory of manifests.
    cluster: Option<Rc<Cluster>>,
}

impl Millrace {
    pub(super) fn build(setup: Setup) -> Result<Self> {
        Self::with_pods(setup, |_, _| Ok(None))
    }

    /// Builds it with pods whose UIDs somebody else may give.
    fn with_pods(setup: Setup, uid: impl Fn(&str, &str) -> Result<Option<String>>) -> Result<Self> {
        let topology = Topology::build(&Options { nodes: 1, ..Options::default() })?;
        topology.control_plane.apply_namespace(NAMESPACE, &[])?;
        topology.start_agents()?;
        let pod = |name: &str, app: &str| {
            let uid = uid(name, app)?;
            topology.add_pod(PodSpec { uid, ..PodSpec::new(NAMESPACE, name).label("app", app) })
        };
        let client = pod("client", "client")?;
        let servers = (0..ENDPOINTS)
            .map(|endpoint| pod(&format!("server{endpoint}"), "server"))
            .collect::<Result<Vec<_>>>()?;
        apply_hygiene(setup.hygiene, client.netns(), servers.iter().map(|server| server.netns()))?;
        let system = Self { setup, topology, client, servers, cluster: None };
        if let Some(peers) = setup.policy_peers {
            system.topology.control_plane.apply(&objects::policy(peers))?;
        }
        system.write_services()?;
        system.await_services(Instant::now() + LOADING)?;
        // Everything else that was applied, too.
        system.topology.settle()?;
        system.await_links()?;
        Ok(system)
    }

    pub(crate) fn node_of(&self) -> &Node {
        self.topology.node(0)
    }

    pub(crate) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Writes all services, many to a file; the one that changes has a file of its own.
    fn write_services(&self) -> Result<()> {
        let all: Vec<usize> = (0..ENDPOINTS).collect();
        let addrs = self.addresses(&all);
        let ServiceSet { count } = self.setup.services;
        let changing = self.setup.services.middle();
        let fixed: Vec<usize> = (0..count).filter(|index| *index != changing).collect();
        for (number, chunk) in fixed.chunks(CHUNK / 2).enumerate() {
            let objects: Vec<Value> = chunk
                .iter()
                .flat_map(|index| [objects::service(*index), objects::slice(*index, &addrs)])
                .collect();
            self.write_file(&format!("services-{number:04}.yaml"), &objects)?;
        }
        self.write_file("changing-service.yaml", &[objects::service(changing)])?;
        self.write_file("changing-slice.yaml", &[objects::slice(changing, &addrs)])?;
        self.write_file("single.yaml", &objects::single(addrs[0]))
    }

    /// Replaces a file of manifests in one step.
    pub(crate) fn write_file(&self, name: &str, objects: &[Value]) -> Result<()> {
        let lines: Vec<String> = objects.iter().map(Value::to_string).collect();
        let directory = self.node_of().manifests();
        let staged = directory.with_extension("staging").join(name);
        fs::write(&staged, lines.join("\n---\n")).with_context(|| format!("write {}", staged.display()))?;
        fs::rename(&staged, directory.join(name)).with_context(|| format!("publish {name}"))
    }

    /// Waits until every pod has its links: for some seconds a new one has filters, which are not what is measured.
    fn await_links(&self) -> Result<()> {
        let interfaces = self.pod_links();
        eventually("the links of the pods", PATIENCE, || {
            let links = self.node_of().maps().links()?;
            let missing = interfaces.iter().find(|interface| !links.contains(&format!("{interface}:to_pod")));
            ensure!(missing.is_none(), "{missing:?} has none");
            Ok(())
        })
    }

    /// Waits until every frontend is in the map.
    fn await_services(&self, deadline: Instant) -> Result<()> {
        let wanted = self.setup.services.count;
        let patience = deadline.saturating_duration_since(Instant::now());
        eventually(format!("{wanted} services are programmed"), patience, || {
            let last = ServiceSet::vip(wanted.saturating_sub(1));
            ensure!(self.node_of().maps().has_frontend(last, SERVICE_PORT)?, "the last one is not");
            let programmed = self.node_of().maps().entries(MapId::FRONTENDS_V4)?.len();
            ensure!(programmed >= wanted, "{programmed} are");
            Ok(())
        })
    }

    fn addresses(&self, endpoints: &[usize]) -> Vec<Ipv4Addr> {
        endpoints.iter().map(|endpoint| self.server_addr(*endpoint)).collect()
    }

    fn pod_link(pod: &Pod) -> Result<String> {
        let interfaces = pod.cni_result()["interfaces"].as_array().context("ADD reported no interfaces")?;
        let host = interfaces.iter().find(|interface| !interface["sandbox"].is_string());
        let name = host.and_then(|interface| interface["name"].as_str());
        name.map(str::to_owned).context("ADD reported no host interface")
    }

    /// The files of the maps' pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.node_of().bpffs().to_owned()
    }
}

fn v4(pod: &Pod) -> Ipv4Addr {
    match pod.ip(false) {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(addr) => unreachable!("{addr} is the IPv4 address of a pod"),
    }
}

const fn place(pod: &Pod) -> Place<'_> {
    Place { netns: pod.netns(), cgroup: pod.cgroup(), outlives: false, capabilities: None }
}

impl Ends for Millrace {
    fn client(&self) -> Place<'_> {
        place(&self.client)
    }

    fn client_addr(&self) -> Ipv4Addr {
        v4(&self.client)
    }

    fn server(&self, endpoint: usize) -> Place<'_> {
        place(&self.servers[endpoint])
    }

    fn server_addr(&self, endpoint: usize) -> Ipv4Addr {
        v4(&self.servers[endpoint])
    }

    fn node(&self) -> &Netns {
        self.node_of().netns()
    }

    fn pod_links(&self) -> Vec<String> {
        let pods = std::iter::once(&self.client).chain(&self.servers);
        pods.filter_map(|pod| Self::pod_link(pod).ok()).collect()
    }
}

impl System for Millrace {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn as_millrace(&self) -> Option<&Self> {
        Some(self)
    }

    fn bystander(&self) -> Option<Place<'_>> {
        Some(Place { cgroup: self.topology.outside_cgroup(), ..place(&self.client) })
    }

    fn forget_flows(&self) -> Result<()> {
        memory::empty(&self.pins(), &[MapId::CT_NEW_V4, MapId::CT_EST_V4])
    }

    fn footprint(&self) -> Result<Footprint> {
        let pid = self.node_of().status()?.pid;
        let (rss, pss) = memory::of_process(pid)?;
        Ok(Footprint { rss, pss, kernel: Some(memory::of_maps(&self.pins())?) })
    }

    fn set_endpoints(&self, service: usize, endpoints: &[usize]) -> Result<()> {
        if let Some(cluster) = &self.cluster {
            return cluster.set_endpoints(service, endpoints);
        }
        if service != self.setup.services.middle() {
            bail!("only service {} has a file of its own", self.setup.services.middle());
        }
        let slice = objects::slice(service, &self.addresses(endpoints));
        self.write_file("changing-slice.yaml", &[slice])
    }

    fn cold_sync(&self) -> Result<Duration> {
        let node = self.node_of();
        node.stop_agent()?;
        memory::empty(&self.pins(), &[MapId::FRONTENDS_V4])?;
        let begun = Instant::now();
        node.spawn_agent(&self.agent_options())?;
        self.await_services(begun + LOADING)?;
        Ok(begun.elapsed())
    }
}
