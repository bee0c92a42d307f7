//! Services whose backends change all the time.
use std::net::IpAddr;

use agent_core::entry::{self, Frontend};
use anyhow::{Context as _, Result, ensure};
use bpf_maps::{Map, MillraceDir};
use dataplane_common::{
    maps::{BACKENDS_MAX, MapId},
    net::proto,
};
use harness::{
    cluster::{Protocol, ServiceSpec},
    kernel,
    topology::Topology,
};

use crate::collector::{PORT_NAME, slice_of_large};

const PORT: u16 = 80;
const ENDPOINTS: u16 = 5000;

#[test]
fn a_large_service_that_changes_all_the_time_finds_room_each_time() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let service = ServiceSpec::new("default", "large").named_port(PORT_NAME, Protocol::Tcp, PORT, 8080);
    let ips = topology.control_plane.apply_service(&service)?;
    let ip = ips.both().into_iter().find(IpAddr::is_ipv4).context("an IPv4 service")?;
    let node = topology.node(0);
    let frontends = Map::open_checked(&MillraceDir::new(node.bpffs()), MapId::FRONTENDS_V4)?;
    let mut ranges = Vec::new();
    // More than the map has slots, were none used again.
    let rounds = u16::try_from(BACKENDS_MAX / u32::from(ENDPOINTS) + 20)?;
    for round in 0..rounds {
        let others = (0..ENDPOINTS).filter(|number| *number != round);
        topology.control_plane.apply(&slice_of_large(others))?;
        topology.settle()?;
        let value = frontends.lookup(&Frontend::cluster(ip, PORT, proto::TCP).to_bytes())?;
        let value = value.and_then(|value| entry::frontend_value(&value)).context("no frontend")?;
        ensure!(value.backends_count == ENDPOINTS - 1, "round {round}: {} backends", value.backends_count);
        ranges.push(value.backends_start);
    }
    ensure!(ranges.windows(2).all(|pair| pair[0] != pair[1]), "a range in use was written: {ranges:?}");
    let problems = node.status()?.problems;
    ensure!(problems.is_empty(), "{problems:?}");
    topology.close()
}
