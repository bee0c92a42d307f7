//! Addresses that nobody has, pods that are gone, ports that a service does not have: the client is told at once, and
//! nothing loops between node and router.
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::Probe,
        wire::{Outcome, Transport},
    },
    topology::{Node, Topology},
};

use crate::{
    expect::{LONG, TRANSPORTS, answer, target},
    objects::policy,
};

const PORT: u16 = 80;

/// How long a datagram is waited for that nobody answers.
const SILENCE: Duration = Duration::from_millis(300);

/// Packets on the uplink that have other reasons: neighbours, routers, listeners.
const NOISE: u64 = 15;

/// Packets that a node has sent by its uplink.
fn sent(node: &Node) -> Result<u64> {
    let table = node.netns().run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no uplink")?;
    line.split_whitespace().nth(9).context("no count of packets")?.parse().context("no number")
}

/// What leaves by the uplink during `work`.
fn leaving(node: &Node, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = sent(node)?;
    work()?;
    Ok(sent(node)? - before)
}

fn comes_to(client: &Probe, transport: Transport, to: SocketAddr, expected: &Outcome) -> Result<()> {
    let outcome = client.probe_one(target(transport, to), LONG)?;
    ensure!(outcome == *expected, "{} {transport:?} to {to}: {outcome}", client.name());
    Ok(())
}

#[test]
fn an_address_that_no_pod_has_is_unreachable_and_no_packet_leaves() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (node, far) = (topology.node(0), topology.node(1));
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let remote = topology.add_pod(PodSpec::new("default", "remote").on(1))?;
    let nobody: [IpAddr; 2] = ["10.244.1.200".parse()?, "fd00:10:244:1::200".parse()?];
    let clients = [near.probe(), node.host(), remote.probe(), far.host(), topology.client()];
    for ip in nobody {
        for client in clients {
            comes_to(client, Transport::Tcp, (ip, PORT).into(), &Outcome::Unreachable)?;
        }
        let left = leaving(node, || {
            for _ in 0..3 {
                // Nobody answers a datagram; a connected socket is not told of what may pass.
                let _outcome = near.probe().probe_one(target(Transport::Udp, (ip, PORT).into()), SILENCE)?;
                let _outcome =
                    remote.probe().probe_one(target(Transport::Udp, (ip, PORT).into()), SILENCE)?;
            }
            Ok(())
        })?;
        ensure!(left <= NOISE, "{left} packets left for {ip}");
    }
    // The way back: a pod that gets the address is reached.
    let later = topology.add_pod(PodSpec::new("default", "later"))?;
    later.probe().listen(Transport::Tcp, PORT)?;
    for to in later.at(PORT) {
        for client in clients {
            answer(client, target(Transport::Tcp, to))?;
        }
    }
    topology.close()
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused_and_no_packet_leaves() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    server.probe().listen(Transport::Tcp, PORT)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    let spec = ServiceSpec::new("default", "web").select("app", "server").port(Protocol::Tcp, PORT, PORT);
    let service = topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    for ip in service.both() {
        let left = leaving(node, || {
            for client in [client.probe(), &bystander, node.host()] {
                for transport in TRANSPORTS {
                    comes_to(client, transport, (ip, PORT + 1).into(), &Outcome::Refused)?;
                }
                answer(client, target(Transport::Tcp, (ip, PORT).into()))?;
            }
            // The port of the other protocol, by a socket that is not connected: it is told when it asks for the service.
            for client in [client.probe(), node.host()] {
                comes_to(client, Transport::UnconnectedUdp, (ip, PORT).into(), &Outcome::Refused)?;
            }
            let _outcome =
                bystander.probe_one(target(Transport::UnconnectedUdp, (ip, PORT).into()), SILENCE)?;
            Ok(())
        })?;
        ensure!(left <= NOISE, "{left} packets left for {ip}");
    }
    topology.close()
}

#[test]
fn what_a_router_sends_for_a_service_is_refused_and_never_sent_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    server.probe().listen(Transport::Tcp, PORT)?;
    let spec = ServiceSpec::new("default", "web").select("app", "server").port(Protocol::Tcp, PORT, PORT);
    let service = topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    for (ip, router) in service.both().into_iter().zip(node.addresses()) {
        topology.fabric().netns().ip(&format!("route add {ip} via {router}\n"))?;
        let left = leaving(node, || {
            for port in [PORT, PORT + 1] {
                for transport in TRANSPORTS {
                    comes_to(topology.client(), transport, (ip, port).into(), &Outcome::Refused)?;
                }
            }
            Ok(())
        })?;
        // An answer for each.
        ensure!(left <= NOISE + 4, "{left} packets left for {ip}");
    }
    topology.close()
}

#[test]
fn a_connection_to_a_pod_that_is_deleted_is_reset() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let remote = topology.add_pod(PodSpec::new("default", "remote").on(1))?;
    let tracked = topology.add_pod(PodSpec::new("default", "tracked").label("app", "tracked"))?;
    topology.control_plane.apply(&policy(
        "tracked",
        &serde_json::json!({
            "podSelector": { "matchLabels": { "app": "tracked" } },
            "ingress": [{}],
            "egress": [{}],
        }),
    ))?;
    let bystanders =
        [topology.bystander(&near)?, topology.bystander(&remote)?, topology.bystander(&tracked)?];
    let spec = ServiceSpec::new("default", "web").select("app", "server").port(Protocol::Tcp, PORT, PORT);
    let service = topology.control_plane.apply_service(&spec)?;
    for v6 in [false, true] {
        let name = format!("server-{v6}");
        let server = topology.add_pod(PodSpec::new("default", &name).label("app", "server"))?;
        server.probe().listen(Transport::Tcp, PORT)?;
        topology.settle()?;
        let direct = SocketAddr::new(server.ip(v6), PORT);
        let [v4_ip, v6_ip] = service.both();
        let by_service = SocketAddr::new(if v6 { v6_ip } else { v4_ip }, PORT);
        let mut connections = Vec::new();
        let pods = [near.probe(), remote.probe(), tracked.probe()];
        for client in pods.into_iter().chain(&bystanders).chain([topology.node(1).host()]) {
            for to in [direct, by_service] {
                let (connection, outcome) = client.open(target(Transport::Tcp, to), LONG)?;
                ensure!(outcome.is_answered(), "{} to {to}: {outcome}", client.name());
                connections.push((client.name(), to, connection));
            }
        }
        let left = leaving(node, || {
            topology.delete_pod("default", &name)?;
            for (client, to, connection) in &connections {
                // The first segment is answered by the reset.
                eventually(format!("{client} to {to} is reset"), PATIENCE, || {
                    let outcome = connection.exchange(Duration::from_secs(1))?;
                    ensure!(outcome == Outcome::Reset, "it is {outcome}");
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        // A reset for each of the six remote connections, and what the deletion itself says.
        ensure!(left <= NOISE + 12, "{left} packets left");
        topology.settle()?;
    }
    topology.close()
}
