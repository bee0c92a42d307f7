//! A routed node that kube-proxy, or its rules, program.
use std::{
    fs::File,
    io::BufWriter,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{eventually::eventually, machine::netns::Netns};
use nix::errno::Errno;

use super::{
    generated::Generated,
    memory::{self, Origin},
    policy::{IsolatedPod, Peers},
    real::Real,
    tools::{self, run_in},
};
use crate::{
    interrupt, measure,
    system::{
        Backend, Footprint, Hygiene, Setup, System,
        routed::{OnRoutedNode, RoutedNode},
        services::{ENDPOINTS, SERVER_PORT, ServiceSet},
    },
};

/// How long the services may take until the last one works.
const LOADING: Duration = Duration::from_mins(20);

/// How long one attempt to reach a service may take. A packet that no rule translates is lost, or refused late.
const ATTEMPT: Duration = Duration::from_millis(5);

/// Conntrack keeps an ended connection this long, in seconds, when it is to have room for the next.
const TIME_WAIT: &str = "2";

/// Who wrote the rules.
enum Source {
    Generated(Generated),
    Real(Box<Real>),
}

/// A node with kube-proxy's rules.
pub(crate) struct Node {
    setup: Setup,
    backend: Backend,
    source: Source,
    routed: RoutedNode,
}

impl Node {
    /// Builds a node and waits until its last service works.
    pub(crate) fn build(backend: Backend, setup: Setup, origin: Origin) -> Result<Self> {
        tools::require(backend)?;
        memory::require(backend, origin, setup.services)?;
        let routed = RoutedNode::build(setup.hygiene)?;
        if setup.hygiene == Hygiene::Clean {
            routed.node().sysctl(&[("netfilter/nf_conntrack_tcp_timeout_time_wait", TIME_WAIT)])?;
        }
        let source = match origin {
            Origin::Generated => {
                let generated = Generated::new(backend, setup.services);
                generated.load(&routed)?;
                Source::Generated(generated)
            }
            Origin::KubeProxy => Source::Real(Box::new(Real::start(backend, setup.services, &routed)?)),
        };
        let node = Self { setup, backend, source, routed };
        node.await_last_service()?;
        if let Some(count) = setup.policy_peers {
            node.isolate_servers(count, setup.peers)?;
        }
        Ok(node)
    }

    /// Restores the generated rules of a change; how long the program took.
    pub(crate) fn restore_change(&self, service: usize, endpoints: &[usize]) -> Result<Duration> {
        self.generated().change(&self.routed, service, endpoints)
    }

    /// Removes all rules and restores the generated ones; how long the restoring program took.
    pub(crate) fn restore_all(&self) -> Result<Duration> {
        self.clear()?;
        self.generated().load(&self.routed)
    }

    /// Removes all rules, makes them anew, and returns by how much the kernel's memory grew, in bytes.
    pub(crate) fn memory_of_rules(&self) -> Result<u64> {
        if let Source::Real(real) = &self.source {
            real.stop();
        }
        self.clear()?;
        let before = settled_kernel_memory()?;
        self.load()?;
        Ok(settled_kernel_memory()?.saturating_sub(before))
    }

    /// The services and rules that the sources agree about.
    fn generated(&self) -> Generated {
        Generated::new(self.backend, self.setup.services)
    }

    /// Makes the rules, which are not there; how long that took.
    fn load(&self) -> Result<Duration> {
        let begun = Instant::now();
        match &self.source {
            Source::Generated(generated) => return generated.load(&self.routed),
            Source::Real(real) => real.start_again(&self.routed)?,
        }
        Ok(self.await_last_service()?.duration_since(begun))
    }

    fn clear(&self) -> Result<()> {
        match self.backend {
            Backend::IptablesLegacy | Backend::IptablesNft => {
                self.generated().iptables(&self.routed, &super::generated::lock(&self.routed)).clear()
            }
            Backend::Nftables => {
                let nft = tools::find("nft").context("nft: apt-get install nftables")?;
                let mut flush = Command::new(nft);
                flush.args(["flush", "ruleset"]);
                run_in(self.routed.node(), flush).map(drop)
            }
        }
    }

    /// Waits until a connection to the last service is accepted; returns when that was.
    fn await_last_service(&self) -> Result<Instant> {
        // Servers of a benchmark that run already answer themselves.
        let _listeners = (0..ENDPOINTS)
            .map(|endpoint| {
                listen(self.routed.server_place(endpoint).netns, RoutedNode::server_addr(endpoint))
            })
            .collect::<Result<Vec<_>>>()?;
        let last = ServiceSet::frontend(self.setup.services.count.saturating_sub(1));
        let client = self.routed.client_place().netns;
        eventually(format!("service {last} works"), LOADING, || {
            // Final, both: no later attempt can succeed.
            if let Err(stopped) = interrupt::check() {
                return Ok(Err(stopped));
            }
            if let Source::Real(real) = &self.source
                && let Err(ended) = real.require_running()
            {
                return Ok(Err(ended));
            }
            client
                .run(|| TcpStream::connect_timeout(&last.into(), ATTEMPT))?
                .with_context(|| format!("connect to {last}"))?;
            Ok(Ok(Instant::now()))
        })?
    }

    /// Isolates every server: the client and `count` other addresses may reach it.
    fn isolate_servers(&self, count: usize, peers: Peers) -> Result<()> {
        if self.backend == Backend::Nftables {
            bail!("policies beside mode nftables are not generated: measure the iptables back ends");
        }
        let folder = self.routed.run().folder();
        let pods: Vec<IsolatedPod> = (0..ENDPOINTS)
            .map(|endpoint| {
                let address = RoutedNode::server_addr(endpoint);
                IsolatedPod::with_peers(address, count, RoutedNode::client_addr())
            })
            .collect();
        let (sets, rules) = (folder.join("policy.sets"), folder.join("policy.rules"));
        write(&sets, |out| IsolatedPod::sets(&pods, peers, out))?;
        write(&rules, |out| IsolatedPod::rules(&pods, peers, out))?;
        if peers == Peers::Ipset {
            let ipset = tools::find("ipset").context("ipset is missing: apt-get install ipset")?;
            let mut restore = Command::new(ipset);
            restore.arg("restore").stdin(File::open(&sets).context("open the sets")?);
            run_in(self.routed.node(), restore)?;
        }
        let lock = super::generated::lock(&self.routed);
        self.generated().iptables(&self.routed, &lock).restore(&rules, &["--noflush"]).map(drop)
    }
}

fn write(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    write(&mut out)
        .and_then(|()| std::io::Write::flush(&mut out))
        .with_context(|| format!("write {}", path.display()))
}

/// The kernel's memory once nothing is being freed: rules that are removed go a while later.
fn settled_kernel_memory() -> Result<u64> {
    const STEP: Duration = Duration::from_millis(300);
    const STILL: u64 = 256 * 1024;
    let mut last = measure::memory::of_kernel()?;
    for _ in 0..40 {
        thread::sleep(STEP);
        let now = measure::memory::of_kernel()?;
        if now.abs_diff(last) < STILL {
            return Ok(now);
        }
        last = now;
    }
    // Others allocate and free all the time: the last reading is as good as a later one.
    Ok(last)
}

/// A listener at a server's address, unless a server has it.
fn listen(netns: &Netns, addr: Ipv4Addr) -> Result<Option<TcpListener>> {
    let addr = SocketAddrV4::new(addr, SERVER_PORT);
    match netns.run(|| TcpListener::bind(addr))? {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("listen at {addr}")),
    }
}

impl OnRoutedNode for Node {
    fn routed(&self) -> &RoutedNode {
        &self.routed
    }
}

impl System for Node {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn forget_flows(&self) -> Result<()> {
        let conntrack =
            tools::find("conntrack").context("conntrack is missing: apt-get install conntrack")?;
        let mut flush = Command::new(conntrack);
        flush.arg("-F").stdin(Stdio::null());
        run_in(self.routed.node(), flush).map(drop)
    }

    fn footprint(&self) -> Result<Footprint> {
        match &self.source {
            Source::Generated(_) => Ok(Footprint::default()),
            Source::Real(real) => {
                let (rss, pss) = measure::memory::of_process(real.pid()?)?;
                Ok(Footprint { rss, pss, kernel: None })
            }
        }
    }

    fn set_endpoints(&self, service: usize, endpoints: &[usize]) -> Result<()> {
        ensure!(service < self.setup.services.count, "there is no service {service}");
        match &self.source {
            Source::Generated(generated) => generated.change(&self.routed, service, endpoints).map(drop),
            Source::Real(real) => real.set_endpoints(service, endpoints),
        }
    }

    fn cold_sync(&self) -> Result<Duration> {
        if let Source::Real(real) = &self.source {
            real.stop();
        }
        self.clear()?;
        self.load()
    }
}
