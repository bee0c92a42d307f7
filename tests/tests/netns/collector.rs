//! What the collector of flows costs when a service loses its backends, and what it may not do to a flow.
use std::{
    fs,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use agent_core::entry::{self, Frontend};
use anyhow::{Context as _, Result, ensure};
use bpf_maps::{Entry, Map, MillraceDir};
use dataplane_common::{
    conntrack::{CtEntryV4, CtKeyV4, half, zone},
    maps::MapId,
    net::{AddrV4, Be16, proto},
};
use harness::{
    cluster::{Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    topology::{Node, Topology},
};
use serde_json::{Value, json};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

const FLOWS: u16 = 20_000;
const BACKENDS: u16 = 1000;
const FRONTEND_PORT: u16 = 80;
pub(crate) const PORT_NAME: &str = "http";

/// An EndpointSlice of a Service `large`, with an endpoint for each number.
pub(crate) fn slice_of_large(numbers: impl IntoIterator<Item = u16>) -> Value {
    let endpoints: Vec<_> = numbers
        .into_iter()
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            json!({ "addresses": [format!("10.200.{high}.{low}")], "conditions": { "ready": true } })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": "large-by-hand",
            "labels": { "kubernetes.io/service-name": "large" },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": PORT_NAME, "protocol": "TCP", "port": 8080 }],
    })
}

/// A node with a service of many backends, none of which the flows have that are put into its maps.
struct Stage {
    topology: Topology,
    frontend: AddrV4,
}

impl Stage {
    fn build() -> Result<Self> {
        let topology = Topology::start()?;
        let service =
            ServiceSpec::new("default", "large").named_port(PORT_NAME, Protocol::Tcp, FRONTEND_PORT, 8080);
        let ips = topology.control_plane.apply_service(&service)?;
        topology.control_plane.apply(&slice_of_large(0..BACKENDS))?;
        topology.settle()?;
        let frontend = ips.both().into_iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(AddrV4::new(ip.octets())),
            IpAddr::V6(_) => None,
        });
        let stage = Self { topology, frontend: frontend.context("an IPv4 service")? };
        let addr = IpAddr::from(stage.frontend.octets());
        let key = Frontend::cluster(addr, FRONTEND_PORT, proto::TCP).to_bytes();
        let value = stage.map(MapId::FRONTENDS_V4)?.lookup(&key)?.context("no frontend")?;
        let count = entry::frontend_value(&value).context("a frontend's value")?.backends_count;
        ensure!(count == BACKENDS, "the service has {count} backends");
        Ok(stage)
    }

    fn node(&self) -> &Node {
        self.topology.node(0)
    }

    fn map(&self, map: MapId) -> Result<Map> {
        Ok(Map::open_checked(&MillraceDir::new(self.node().bpffs()), map)?)
    }

    /// Established connections to the service, each to a backend that it does not have.
    fn orphans(&self) -> Vec<Entry> {
        let client = AddrV4::new([10, 201, 0, 1]);
        let backend = AddrV4::new([10, 202, 0, 1]);
        (1..=FLOWS)
            .map(|port| {
                let port = Be16::new(port);
                let ends = [(client, port), (self.frontend, Be16::new(FRONTEND_PORT))];
                let [(low_addr, low_port), (high_addr, high_port)] =
                    [ends[0].min(ends[1]), ends[0].max(ends[1])];
                let (proto, zone, reserved) = (proto::TCP, zone::POD, [0; 2]);
                let key = CtKeyV4 { low_addr, high_addr, low_port, high_port, proto, zone, reserved };
                let mut entry = CtEntryV4::new_zeroed();
                (entry.nat_source, entry.nat_source_port) = (client, port);
                (entry.nat_destination, entry.nat_destination_port) = (backend, Be16::new(8080));
                entry.state.tag = key.tag();
                // Never idle.
                entry.state.last_seen = u64::MAX;
                entry.state.half = half::CLIENT;
                entry.state.origin_high = u8::from(ends[0] > ends[1]);
                entry.state.replied = 1;
                (key.as_bytes().to_vec(), entry.as_bytes().to_vec())
            })
            .collect()
    }
}

fn parsed(entries: &[Entry]) -> Vec<CtEntryV4> {
    entries.iter().filter_map(|(_, value)| CtEntryV4::read_from_bytes(value).ok()).collect()
}

/// Time on a CPU that a thread of a process has had.
fn cpu_time(pid: u32, thread: &str) -> Result<Duration> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("threads of the agent")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == thread {
            let text = fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds = text.split(' ').next().context("a number")?.parse()?;
            return Ok(Duration::from_nanos(nanoseconds));
        }
    }
    anyhow::bail!("the agent has no thread {thread}")
}

#[test]
fn connections_that_lost_their_backends_cost_the_collector_next_to_nothing() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let (established, orphans) = (stage.map(MapId::CT_EST_V4)?, stage.orphans());
    established.update_batch(&orphans)?;
    eventually("every flow may choose another backend", PATIENCE, || {
        let entries = parsed(&established.dump()?);
        ensure!(entries.len() == usize::from(FLOWS), "{} flows are left", entries.len());
        let marked = entries.iter().filter(|entry| entry.state.backend_gone == 1).count();
        ensure!(marked == entries.len(), "{marked} are marked");
        Ok(())
    })?;
    // Nothing else of them changes.
    for entry in parsed(&established.dump()?) {
        ensure!(entry.state.last_seen == u64::MAX && entry.state.replied == 1, "{entry:?}");
    }
    let pid = stage.node().agent_pid().context("an agent")?;
    let (begun, before) = (Instant::now(), cpu_time(pid, "conntrack-gc")?);
    thread::sleep(Duration::from_secs(5));
    let spent = cpu_time(pid, "conntrack-gc")?.saturating_sub(before);
    let share = spent.as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("the collector takes {:.1} % of a CPU", share * 100.0);
    ensure!(share < 0.4, "the collector takes {:.0} % of a CPU", share * 100.0);
    stage.topology.close()
}

#[test]
fn a_flow_that_ends_while_the_collector_looks_at_it_stays_ended() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let (established, new) = (stage.map(MapId::CT_EST_V4)?, stage.map(MapId::CT_NEW_V4)?);
    let orphans = stage.orphans();
    for _ in 0..3 {
        established.update_batch(&orphans)?;
        // What the programs do when both ends have finished; spread over more than one look of the collector.
        for chunk in orphans.chunks(100) {
            for (key, value) in chunk {
                let mut entry = CtEntryV4::read_from_bytes(value).ok().context("an entry")?;
                entry.state.closed = 1;
                new.update(key, entry.as_bytes())?;
                established.delete(key)?;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let revived = established.dump()?.len();
        ensure!(revived == 0, "{revived} of {FLOWS} flows that ended are established again");
    }
    stage.topology.close()
}
