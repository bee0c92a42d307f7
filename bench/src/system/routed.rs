//! A node with a client pod and the server pods, cabled as the reference plugin `ptp` does it and routed by the
//! kernel. Alone it is [`Kind::Plain`](super::Kind::Plain); kube-proxy works in its namespace `node`.
use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use harness::machine::{
    cgroup::{self, Cgroup},
    netns::Netns,
    process::Place,
    run::Run,
};

use super::{Ends, Hygiene, services::ENDPOINTS};

/// What pods route to, on the node's side of every pod's link. The pods' addresses follow it, and are those of
/// Millrace's pods: one API server can serve both kinds of nodes.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// The node's own address.
pub(crate) const NODE_ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 11);
/// All pods are inside of it.
pub(crate) const POD_CIDR: &str = "10.244.1.0/24";

/// The namespaces of a routed node. Everything goes when it is dropped.
#[derive(Debug)]
pub(crate) struct RoutedNode {
    run: Run,
    node: Netns,
    client: Netns,
    servers: Vec<Netns>,
    cgroup: Cgroup,
}

impl RoutedNode {
    pub(crate) fn build(hygiene: Hygiene) -> Result<Self> {
        let run = Run::unique();
        fs::create_dir(run.folder()).with_context(|| format!("create {}", run.folder().display()))?;
        let cgroup = Cgroup::create(&cgroup::root()?, &run.to_string())?;
        let node = Netns::create(&run.part("node"))?;
        let client = Netns::create(&run.part("client"))?;
        let servers = (0..ENDPOINTS)
            .map(|endpoint| Netns::create(&run.part(&format!("server{endpoint}"))))
            .collect::<Result<Vec<_>>>()?;
        let routed = Self { run, node, client, servers, cgroup };
        routed.node.ip(&format!("addr add {NODE_ADDR}/32 dev lo\n"))?;
        routed.node.sysctl(&[("ipv4/ip_forward", "1")])?;
        for (number, pod) in routed.pods().enumerate() {
            routed.cable(&Self::link(number), pod, Self::addr(number))?;
        }
        apply_hygiene(hygiene, &routed.client, routed.servers.iter())?;
        Ok(routed)
    }

    /// Folder for files of whatever runs on the node.
    pub(crate) const fn run(&self) -> &Run {
        &self.run
    }

    pub(crate) const fn node(&self) -> &Netns {
        &self.node
    }

    pub(crate) fn client_addr() -> Ipv4Addr {
        Self::addr(0)
    }

    pub(crate) fn server_addr(endpoint: usize) -> Ipv4Addr {
        Self::addr(endpoint + 1)
    }

    /// A place for processes of the node.
    pub(crate) const fn node_place(&self) -> Place<'_> {
        self.place(&self.node)
    }

    pub(crate) const fn client_place(&self) -> Place<'_> {
        self.place(&self.client)
    }

    pub(crate) fn server_place(&self, endpoint: usize) -> Place<'_> {
        self.place(&self.servers[endpoint])
    }

    /// The node's interfaces towards the pods, the client's first.
    pub(crate) fn pod_links() -> Vec<String> {
        (0..=ENDPOINTS).map(Self::link).collect()
    }

    const fn place<'a>(&'a self, netns: &'a Netns) -> Place<'a> {
        Place { netns, cgroup: &self.cgroup, outlives: false, capabilities: None }
    }

    /// The client is pod 0.
    fn pods(&self) -> impl Iterator<Item = &Netns> {
        std::iter::once(&self.client).chain(&self.servers)
    }

    fn link(pod: usize) -> String {
        format!("pod{pod}")
    }

    fn addr(pod: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(GATEWAY.to_bits() + 1 + u32::try_from(pod).expect("few pods"))
    }

    fn cable(&self, link: &str, pod: &Netns, addr: Ipv4Addr) -> Result<()> {
        self.node.ip(&format!(
            "link add {link} type veth peer name eth0 netns {}\n\
             addr add {GATEWAY}/32 dev {link}\n\
             link set {link} up\n\
             route add {addr}/32 dev {link}\n",
            pod.name()
        ))?;
        pod.ip(&format!(
            "addr add {addr}/32 dev eth0\n\
             link set eth0 up\n\
             route add {GATEWAY}/32 dev eth0\n\
             route add default via {GATEWAY} dev eth0\n"
        ))
    }
}

impl Drop for RoutedNode {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.run.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("remove {}: {error}", self.run.folder().display());
        }
    }
}

/// Sets what [`Hygiene::Clean`] means for pods: a client that connects all the time needs ports, and servers that
/// close first must not fill up with `TIME_WAIT`. The conntrack of kube-proxy's node has a setting of its own.
///
/// The client's timestamps get no random offset for each destination: a server sees one client behind all service
/// addresses, and its `TIME_WAIT` sockets would refuse every SYN that reuses a port with an older timestamp
/// (RFC 7323, PAWS). That costs 10 to 1000 ms in one of 200 connections, in every system that translates packets.
pub(crate) fn apply_hygiene<'a>(
    hygiene: Hygiene,
    client: &Netns,
    servers: impl Iterator<Item = &'a Netns>,
) -> Result<()> {
    if hygiene == Hygiene::KernelDefaults {
        return Ok(());
    }
    client.sysctl(&[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_timestamps", "2")])?;
    for server in servers {
        server.sysctl(&[("ipv4/tcp_max_tw_buckets", "256")])?;
    }
    Ok(())
}

/// A system whose pods are those of a routed node.
pub(crate) trait OnRoutedNode {
    fn routed(&self) -> &RoutedNode;
}

impl<T: OnRoutedNode> Ends for T {
    fn client(&self) -> Place<'_> {
        self.routed().client_place()
    }

    fn client_addr(&self) -> Ipv4Addr {
        RoutedNode::client_addr()
    }

    fn server(&self, endpoint: usize) -> Place<'_> {
        self.routed().server_place(endpoint)
    }

    fn server_addr(&self, endpoint: usize) -> Ipv4Addr {
        RoutedNode::server_addr(endpoint)
    }

    fn node(&self) -> &Netns {
        self.routed().node()
    }

    fn pod_links(&self) -> Vec<String> {
        RoutedNode::pod_links()
    }
}
