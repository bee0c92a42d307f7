//! Systems under test. Each is a resident triple of network namespaces, client – node – server, with
//! [`ENDPOINTS`](services::ENDPOINTS) server pods; nothing of it changes between rounds.
//!
//! ```text
//!   client pod ── node (the system under test) ──┬── server pod 0
//!                                                ├── server pod 1
//!                                                ├── …
//! ```
mod loopback;
pub(crate) mod millrace;
pub(crate) mod objects;
mod plain;
pub(crate) mod routed;
pub(crate) mod services;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::Result;
use harness::machine::{netns::Netns, process::Place};

use self::services::ServiceSet;
use crate::baseline::{self, Peers};

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Backend {
    /// Mode `iptables` with `iptables-legacy`: the harder one to beat.
    IptablesLegacy,
    /// Mode `iptables` with `iptables-nft`, the default of distributions.
    IptablesNft,
    /// Mode `nftables`.
    Nftables,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Client and server in one namespace: what no dataplane can reach.
    Loopback,
    /// veth routing by the kernel alone: no rules, no conntrack, the pod's address.
    Plain,
    Millrace,
    KubeProxy(Backend),
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Loopback,
        Self::Plain,
        Self::Millrace,
        Self::KubeProxy(Backend::IptablesLegacy),
        Self::KubeProxy(Backend::IptablesNft),
        Self::KubeProxy(Backend::Nftables),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Plain => "plain",
            Self::Millrace => "millrace",
            Self::KubeProxy(Backend::IptablesLegacy) => "iptables-legacy",
            Self::KubeProxy(Backend::IptablesNft) => "iptables-nft",
            Self::KubeProxy(Backend::Nftables) => "nftables",
        }
    }

    /// Whether the system knows services at all.
    pub(crate) const fn has_services(self) -> bool {
        matches!(self, Self::Millrace | Self::KubeProxy(_))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How the kernel is set up around a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hygiene {
    /// What keeps conntrack from collapsing under connects of one client: short `TIME_WAIT` in conntrack and in the
    /// servers, the whole port range.
    Clean,
    /// Nothing is touched.
    KernelDefaults,
}

/// What a system is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) services: ServiceSet,
    pub(crate) hygiene: Hygiene,
    /// Addresses that a NetworkPolicy of the servers allows besides the client; `None`: no policy. Systems without
    /// policies ignore it.
    pub(crate) policy_peers: Option<usize>,
    /// How the rules beside kube-proxy name those addresses.
    pub(crate) peers: Peers,
}

/// What the programs of a system hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Resident and proportional memory of its processes, in bytes.
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    /// Kernel memory that can be attributed exactly (the maps' `memlock`), in bytes.
    pub(crate) kernel: Option<u64>,
}

/// The ends of a system's connections, and what is between them.
pub(crate) trait Ends {
    /// Where the client runs, and its address.
    fn client(&self) -> Place<'_>;
    fn client_addr(&self) -> Ipv4Addr;

    /// Where the `endpoint`th server runs, and its address.
    fn server(&self, endpoint: usize) -> Place<'_>;
    fn server_addr(&self, endpoint: usize) -> Ipv4Addr;

    /// The namespace that forwards.
    fn node(&self) -> &Netns;

    /// The node's interfaces towards the client and the servers.
    fn pod_links(&self) -> Vec<String>;
}

/// A running system.
pub(crate) trait System: Ends {
    fn setup(&self) -> Setup;

    /// Beside the client, but where no program translates its sockets; where that makes a difference.
    fn bystander(&self) -> Option<Place<'_>> {
        None
    }

    /// Forgets every tracked flow, so that the next packet of each is a first one.
    fn forget_flows(&self) -> Result<()>;

    fn footprint(&self) -> Result<Footprint>;

    /// Tells the control plane that one service has these endpoints from now on; returns when it is told. What was
    /// told is visible when a new connection follows it.
    fn set_endpoints(&self, service: usize, endpoints: &[usize]) -> Result<()>;

    /// Removes what the system has in the kernel for services, starts it anew with all objects there already, and
    /// returns the time until the last service works.
    fn cold_sync(&self) -> Result<Duration>;

    /// Millrace itself, for what only it has.
    fn as_millrace(&self) -> Option<&millrace::Millrace> {
        None
    }

    /// Where a client of a service connects to. Systems without services: an endpoint's own address.
    fn target(&self, service: usize) -> SocketAddrV4 {
        if self.setup().kind.has_services() {
            ServiceSet::frontend(service)
        } else {
            SocketAddrV4::new(self.server_addr(service % services::ENDPOINTS), services::SERVER_PORT)
        }
    }
}

/// Builds a system and waits until its last service works.
pub(crate) fn build(setup: Setup) -> Result<Box<dyn System>> {
    Ok(match setup.kind {
        Kind::Loopback => Box::new(loopback::Loopback::build(setup)?),
        Kind::Plain => Box::new(plain::Plain::build(setup)?),
        Kind::Millrace => Box::new(millrace::Millrace::build(setup)?),
        Kind::KubeProxy(backend) => baseline::build(backend, setup)?,
    })
}
