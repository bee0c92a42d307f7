//! A node: network namespace, cgroup root, bpffs, folders, agent, and a process of the host.
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context as _, Result};

use super::{
    Options,
    agent::Running,
    fabric::{Fabric, Subnet, new_netns},
    inspect::Maps,
};
use crate::{
    cluster::NodeSpec,
    machine::{bpffs::Bpffs, cgroup::Cgroup, netns::Netns, process::Place, run::Run},
    probe::client::Probe,
};

/// The interface towards the fabric.
pub(super) const UPLINK: &str = "eth0";

/// A node of the topology.
#[derive(Debug)]
pub struct Node {
    pub(super) spec: NodeSpec,
    pub(super) folder: PathBuf,
    pub(super) agent: Mutex<Option<Running>>,
    /// What every agent of this node is started with.
    pub(super) usual: Mutex<Vec<String>>,
    pub(super) outlives: bool,
    others: Vec<IpAddr>,
    host: Probe,
    bpffs: Bpffs,
    netns: Netns,
    /// For the pods of this node.
    pods: Cgroup,
    /// For processes of the host, agent and CNI plugin included.
    host_cgroup: Cgroup,
    cgroup: Cgroup,
}

impl Node {
    pub(super) fn build(
        run: &Run,
        group: &Path,
        fabric: &Fabric,
        index: usize,
        options: &Options,
    ) -> Result<Self> {
        let outlives = options.keep;
        let number = u8::try_from(index + 1).context("there are at most 200 nodes")?;
        let name = format!("node-{number}");
        let subnet = if options.apart { Subnet::number(number) } else { Subnet::SWITCHED };
        let spec = NodeSpec {
            name: name.clone(),
            v4: subnet.v4(10 + number),
            v6: subnet.v6(0x10 + u16::from(number)),
            pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
        };
        let others = vec![
            Ipv4Addr::new(10, 99, 0, number).into(),
            Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(number)).into(),
        ];
        let folder = run.folder().join(&name);
        for part in ["run", "state", "manifests"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("create {part} of {name}"))?;
        }
        let netns = new_netns(run, &name)?;
        connect(&netns, fabric, subnet, &spec, &others)?;
        let cgroup = Cgroup::create(group, &name)?;
        let host_cgroup = Cgroup::create(cgroup.path(), "host")?;
        let pods = Cgroup::create(cgroup.path(), "pods")?;
        let bpffs = Bpffs::mount(&folder.join("bpf"))?;
        let place = Place { netns: &netns, cgroup: &host_cgroup, outlives, capabilities: None };
        let host = Probe::start(run, &name, place)?;
        Ok(Self {
            spec,
            folder,
            agent: Mutex::new(None),
            usual: Mutex::default(),
            outlives,
            others,
            host,
            bpffs,
            netns,
            pods,
            host_cgroup,
            cgroup,
        })
    }

    #[must_use]
    pub const fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// A process of the host, in the node's cgroup.
    #[must_use]
    pub const fn host(&self) -> &Probe {
        &self.host
    }

    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Every address of the node, those that its Node object does not name included.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        [IpAddr::V4(self.spec.v4), IpAddr::V6(self.spec.v6)]
            .into_iter()
            .chain(self.others.iter().copied())
            .collect()
    }

    /// The maps and links of the node's agent.
    #[must_use]
    pub fn maps(&self) -> Maps {
        Maps::new(self.bpffs.path())
    }

    #[must_use]
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Where the leases of `host-local` are.
    #[must_use]
    pub fn host_local_dir(&self) -> PathBuf {
        self.folder.join("networks")
    }

    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The directory of Kubernetes YAML that the agent reads.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The group of the node's pods.
    pub(super) const fn pods_cgroup(&self) -> &Cgroup {
        &self.pods
    }

    /// Where programs of the host run.
    pub(super) const fn host_place(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.host_cgroup, outlives: self.outlives, capabilities: None }
    }
}

/// Cables a node to the fabric and routes its pods there.
fn connect(netns: &Netns, fabric: &Fabric, subnet: Subnet, spec: &NodeSpec, others: &[IpAddr]) -> Result<()> {
    let NodeSpec { name, v4, v6, pod_cidrs: [cidr_v4, cidr_v6] } = spec;
    let (gateway_v4, gateway_v6) = (subnet.gateway_v4(), subnet.gateway_v6());
    fabric.netns().ip(&format!("link add {name} type veth peer name {UPLINK} netns {}\n", netns.name()))?;
    fabric.netns().ip(&if subnet == Subnet::SWITCHED {
        format!("link set {name} master switch\n")
    } else {
        format!("addr add {gateway_v4}/24 dev {name}\naddr add {gateway_v6}/64 dev {name} nodad\n")
    })?;
    fabric.netns().ip(&format!(
        "link set {name} up\n\
         route add {cidr_v4} via {v4}\n\
         route add {cidr_v6} via {v6}\n"
    ))?;
    netns.ip(&format!(
        "link set {UPLINK} up\n\
         addr add {v4}/24 dev {UPLINK}\n\
         addr add {v6}/64 dev {UPLINK} nodad\n\
         route add default via {gateway_v4}\n\
         route add default via {gateway_v6}\n"
    ))?;
    others.iter().try_for_each(|other| {
        let length = if other.is_ipv4() { 32 } else { 128 };
        netns.ip(&format!("addr add {other}/{length} dev lo\n"))
    })
}
