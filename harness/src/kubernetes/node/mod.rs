//! A node: a process with network, mount, UTS and cgroup namespaces of its own, in which a container runtime and a
//! kubelet run as they run on a host.
mod containerd;
mod filesystem;
mod keeper;
mod kubelet;

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1 as core;

pub use self::{
    containerd::{METRICS as RUNTIME_METRICS, PAUSE_IMAGE},
    filesystem::Iptables,
    keeper::keep,
};
use super::{
    address::{Families, Family},
    certificates::{Authority, Subject, write},
    component::{self, Component},
    fabric::{Fabric, UPLINK},
    name::ClusterName,
    place::Place,
    programs::{IN_NODES, Programs, SEARCH_PATH},
};
use crate::{
    eventually::eventually,
    machine::{
        binaries::copy_program,
        cgroup,
        netns::{self, Netns},
    },
};

/// How long the runtime may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where Debian has the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// A node of a cluster. It stays up when this value is dropped.
#[derive(Clone, Debug)]
pub struct Node {
    cluster: ClusterName,
    number: u8,
    families: Families,
    iptables: Iptables,
    programs: Programs,
}

impl Node {
    #[must_use]
    pub fn new(
        cluster: &ClusterName,
        number: u8,
        families: Families,
        iptables: Iptables,
        programs: &Programs,
    ) -> Self {
        Self { cluster: cluster.clone(), number, families, iptables, programs: programs.clone() }
    }

    #[must_use]
    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        family.node(self.number)
    }

    #[must_use]
    pub fn pod_cidr(&self, family: Family) -> String {
        family.node_pod_cidr(self.number)
    }

    /// Sets the route to this node's pods in the network of another machine.
    pub fn route_from(&self, other: &Netns) -> Result<()> {
        self.families.each().iter().try_for_each(|family| {
            let (cidr, via) = (self.pod_cidr(*family), self.address(*family));
            other.ip(&format!("route replace {cidr} via {via} dev {UPLINK}"))
        })
    }

    /// The node's folder on the machine: what survives a restart of the node.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.cluster.folder().join(self.name())
    }

    /// A program of the node, by its name.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        Component::new(&self.cluster, &self.name(), name)
    }

    /// The programs that every node runs, in the order of their start.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        ["keeper", "containerd", "kubelet"].map(|name| self.component(name)).into()
    }

    /// The object of the API. It has its pod CIDRs from the start, so that nobody waits for them.
    #[must_use]
    pub fn object(&self) -> core::Node {
        let cidrs: Vec<String> = self.families.each().iter().map(|family| self.pod_cidr(*family)).collect();
        let mut node = core::Node::default();
        node.metadata.name = Some(self.name());
        node.metadata.labels = Some(
            [
                ("kubernetes.io/hostname".to_owned(), self.name()),
                ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ]
            .into(),
        );
        node.spec = Some(core::NodeSpec {
            pod_cidr: cidrs.first().cloned(),
            pod_cidrs: Some(cidrs),
            ..core::NodeSpec::default()
        });
        node
    }

    /// Makes the node's files: configuration, credentials, reference plugins.
    pub fn install(&self, authority: &Authority, server: &str) -> Result<()> {
        let folder = self.folder();
        filesystem::prepare(&folder, self.iptables)?;
        let name = self.name();
        let addresses: Vec<IpAddr> =
            self.families.each().iter().map(|family| self.address(*family)).collect();
        let user = format!("system:node:{name}");
        let credentials = authority.sign(&Subject {
            name: &user,
            group: Some("system:nodes"),
            addresses: &addresses,
            host_names: &[&name],
        })?;
        let kubeconfig = authority.kubeconfig(server, &user, Some("system:nodes"))?;
        let config = serde_json::to_string_pretty(&kubelet::config(self.families))
            .context("a configuration is plain data")?;
        let hosts =
            self.families.list(|family| format!("{} {name}", self.address(family))).replace(',', "\n");
        for (path, text) in [
            (kubelet::AUTHORITY, authority.certificate()),
            (kubelet::CERTIFICATE, &credentials.certificate),
            (kubelet::KEY, &credentials.key),
            (kubelet::KUBECONFIG, &kubeconfig),
            (kubelet::CONFIG, &config),
            (containerd::CONFIG, &containerd::config()),
            ("/etc/hostname", &format!("{name}\n")),
            ("/etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{hosts}\n")),
            ("/etc/resolv.conf", "# Nothing outside the cluster has a name here.\n"),
        ] {
            self.write_before_start(path, text)?;
        }
        copy_reference_plugins(&folder.join("opt/cni/bin"))
    }

    /// Writes a file of the node that does not run yet; `path` is as the node sees it.
    pub fn write_before_start(&self, path: &str, text: &str) -> Result<()> {
        let path = self.folder().join(path.trim_start_matches('/'));
        let parent = path.parent().context("a file has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        write(&path, text)
    }

    /// Switches the node on: network, namespaces, container runtime. [`Self::install`] was called once.
    pub fn power_on(&self, fabric: &Fabric) -> Result<()> {
        let netns = fabric.attach(&self.cluster, &self.name(), |family| self.address(family))?;
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let order = filesystem::Order {
            scope: self.cluster.part(&self.name()),
            host_name: self.name(),
            folder: self.folder(),
            programs: self.programs.folder().to_owned(),
        };
        let keeper = self.component("keeper");
        // What an earlier one printed is not news.
        component::forget_log(&keeper)?;
        keeper.start(
            &Place::network(&netns, groups(&self.cluster.part_group(&self.name()))?),
            keeper::command(&order)?,
        )?;
        eventually(format!("namespaces of {}", self.name()), PATIENCE, || {
            let log = fs::read_to_string(keeper.log()).unwrap_or_default();
            match (keeper::is_ready(&log), keeper.pid()) {
                (true, _) => Ok(Ok(())),
                // No waiting cures it.
                (false, None) => Ok(keeper.check_runs()),
                (false, Some(_)) => bail!("they are being made"),
            }
        })??;
        self.start_containerd()
    }

    /// Ends every process of the node at once, and takes its network away: what remains is its disk.
    pub fn power_off(&self, fabric: &Fabric) -> Result<()> {
        for hierarchy in cgroup::hierarchies()? {
            let group = hierarchy.mount_point.join(self.cluster.part_group(&self.name()));
            if hierarchy.version_2 {
                cgroup::kill(&group, PATIENCE).with_context(|| format!("end {}", self.name()))?;
            }
        }
        for hierarchy in cgroup::hierarchies()? {
            let group = hierarchy.mount_point.join(self.cluster.part_group(&self.name()));
            cgroup::remove(&group).with_context(|| format!("remove {}", group.display()))?;
        }
        fabric.detach(&self.name())?;
        netns::delete(&self.cluster.part(&self.name()));
        Ok(())
    }

    /// Starts the container runtime, also after it was killed, and waits until it answers.
    pub fn start_containerd(&self) -> Result<()> {
        let daemon = self.component("containerd");
        daemon.start(&self.place()?, Self::environment(containerd::command(Path::new(IN_NODES))))?;
        eventually(format!("the container runtime of {}", self.name()), PATIENCE, || {
            if daemon.pid().is_none() {
                return Ok(daemon.check_runs());
            }
            let output = self.run(containerd::probe(Path::new(IN_NODES)))?;
            containerd::check(&output, "ask the runtime for its version").map(Ok)
        })?
    }

    /// Brings an image into the node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let file = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
        let mut command = containerd::import(Path::new(IN_NODES));
        command.stdin(file);
        let output = self.run_with_input(command)?;
        containerd::check(&output, &format!("load {} into {}", archive.display(), self.name()))
    }

    /// Starts the kubelet, also after it was killed.
    pub fn start_kubelet(&self) -> Result<()> {
        let addresses = self.families.list(|family| self.address(family).to_string());
        let command = kubelet::command(Path::new(IN_NODES), &self.name(), &addresses);
        self.component("kubelet").start(&self.place()?, Self::environment(command))
    }

    /// Runs a command inside the node to its end.
    pub fn run(&self, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null());
        self.run_with_input(command)
    }

    fn run_with_input(&self, command: Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut command = Self::environment(command);
        self.place()?.enter(&mut command)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().with_context(|| format!("run {program} in {}", self.name()))
    }

    /// A command that will run inside the node, with the search path of its programs.
    pub fn inside(&self, command: Command) -> Result<Command> {
        let mut command = Self::environment(command);
        self.place()?.enter(&mut command)?;
        Ok(command)
    }

    /// The node's file system while it runs, from the outside.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.keeper()?)))
    }

    /// Where programs of the host run.
    pub fn place(&self) -> Result<Place> {
        self.place_beside(self.keeper()?)
    }

    /// Where a program runs that joins a container's process: it sees what the container sees, and is the host's.
    pub fn place_beside(&self, process: u32) -> Result<Place> {
        let group = format!("{}/{}", self.cluster.part_group(&self.name()), filesystem::HOST_GROUP);
        Ok(Place::of_process(process, groups(&group)?))
    }

    fn keeper(&self) -> Result<u32> {
        self.component("keeper").pid().with_context(|| format!("{} is not running", self.name()))
    }

    fn environment(mut command: Command) -> Command {
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", "/root").current_dir("/");
        command
    }
}

/// The group of this path in every hierarchy.
fn groups(path: &str) -> Result<Vec<PathBuf>> {
    cgroup::hierarchies()?.iter().map(|hierarchy| hierarchy.group(path)).collect()
}

/// What every node has in its plugin folder: `loopback` for each pod, and the rest for the reference network.
fn copy_reference_plugins(folder: &Path) -> Result<()> {
    for plugin in ["loopback", "host-local", "ptp", "portmap"] {
        let from = Path::new(REFERENCE_PLUGINS).join(plugin);
        copy_program(&from, &folder.join(plugin))
            .context("install the package containernetworking-plugins")?;
    }
    Ok(())
}
