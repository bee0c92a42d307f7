//! Fragments in any order: a datagram that policy allows arrives, one that it forbids does not.
use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, holds},
    kernel,
    packet::{Packet, Transport as PacketTransport},
    probe::wire::Transport,
    topology::{Pod, Topology},
};
use serde_json::json;

const OPEN: u16 = 80;
const SHUT: u16 = 81;
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn serves(topology: &Topology, name: &str, app: &str, node: usize) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(PodSpec::new("default", name).label("app", app).on(node))?;
    for port in [OPEN, SHUT] {
        pod.probe().listen(Transport::Udp, port)?;
    }
    Ok(pod)
}

/// The three fragments of a datagram, as the client's kernel would send them: from a port of its own, so that no datagram
/// meets the flow of another one.
fn pieces(client: &Pod, to: SocketAddr, id: u16) -> Result<Vec<Vec<u8>>> {
    let (macs, from) = (client.macs()?, client.ip(to.is_ipv6()));
    let datagram = PacketTransport::udp(4000 + id, to.port(), vec![b'x'; 1400]);
    let whole = Packet::new(from, to.ip(), datagram).between(macs.pod, macs.host);
    let pieces: Vec<Vec<u8>> = whole.fragments(id.into(), 480).iter().map(Packet::bytes).collect();
    assert_eq!(pieces.len(), 3);
    Ok(pieces)
}

/// Sends a datagram in an order of its fragments and waits until the server has had it.
fn arrives(client: &Pod, to: SocketAddr, id: u16, order: [usize; 3], server: &Pod) -> Result<()> {
    let before = server.probe().served(Transport::Udp, OPEN)?;
    let pieces = pieces(client, to, id)?;
    client.probe().send_frames("eth0", &order.map(|piece| pieces[piece].clone()))?;
    holds(format!("{to} is reached by {} in the order {order:?}", client.name()), PATIENCE, || {
        server.probe().served(Transport::Udp, OPEN).is_ok_and(|served| served == before + 1)
    })
}

#[test]
fn a_datagram_that_policy_allows_arrives_in_every_order_and_another_in_none() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = serves(&topology, "client", "client", 0)?;
    let near = serves(&topology, "near", "server", 0)?;
    let far = serves(&topology, "far", "server", 1)?;
    let open = json!([{ "protocol": "UDP", "port": OPEN }]);
    topology.control_plane.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": "open" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "server" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "ports": open }],
        },
    }))?;
    topology.settle()?;
    let mut id: u16 = 100;
    for server in [&near, &far] {
        for v6 in [false, true] {
            let to = |port| SocketAddr::new(server.ip(v6), port);
            for order in ORDERS {
                id += 2;
                let shut = pieces(&client, to(SHUT), id)?;
                client.probe().send_frames("eth0", &order.map(|piece| shut[piece].clone()))?;
                arrives(&client, to(OPEN), id + 1, order, server)?;
            }
            // What was sent before what arrived would have arrived.
            assert_eq!(server.probe().served(Transport::Udp, SHUT)?, 0, "a later fragment opened a port");
        }
    }
    topology.close()
}

#[test]
fn a_datagram_to_a_service_and_one_of_an_isolated_client_arrive_in_every_order() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = serves(&topology, "client", "client", 0)?;
    let server = serves(&topology, "server", "server", 1)?;
    let service = ServiceSpec::new("default", "server").select("app", "server");
    let vips = topology.control_plane.apply_service(&service.port(Protocol::Udp, 53, OPEN))?.both();
    topology.settle()?;
    let direct = server.at(OPEN);
    let mut id: u16 = 500;
    let mut every_order = |targets: &[SocketAddr]| -> Result<()> {
        for to in targets {
            for order in ORDERS {
                id += 1;
                arrives(&client, *to, id, order, &server)?;
            }
        }
        Ok(())
    };
    every_order(&vips.map(|ip| SocketAddr::new(ip, 53)))?;
    topology.control_plane.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": "egress" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "client" } },
            "policyTypes": ["Egress"],
            "egress": [{ "ports": [{ "protocol": "UDP", "port": OPEN }] }],
        },
    }))?;
    topology.settle()?;
    every_order(&direct)?;
    every_order(&vips.map(|ip| SocketAddr::new(ip, 53)))?;
    topology.close()
}

#[test]
fn what_the_host_sends_to_an_isolated_pod_arrives_in_every_order() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let server = serves(&topology, "server", "server", 0)?;
    topology.control_plane.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": "shut" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    }))?;
    topology.settle()?;
    let node = topology.node(0);
    let device = server.cni_result()["interfaces"][0]["name"].as_str().context("no name")?.to_owned();
    let macs = server.macs()?;
    let mut id: u16 = 900;
    for to in server.at(OPEN) {
        let from = if to.is_ipv4() { node.spec().v4.into() } else { node.spec().v6.into() };
        for order in ORDERS {
            id += 1;
            let datagram = PacketTransport::udp(4000 + id, OPEN, vec![b'x'; 1400]);
            let whole = Packet::new(from, to.ip(), datagram).between(macs.host, macs.pod);
            let pieces: Vec<Vec<u8>> = whole.fragments(id.into(), 480).iter().map(Packet::bytes).collect();
            let before = server.probe().served(Transport::Udp, OPEN)?;
            for piece in order {
                // What is held is lost to who sends it past the stack: "no buffer space".
                let _held = node.host().send_frames(&device, &[pieces[piece].clone()]);
            }
            holds(format!("{to} is reached by its host in the order {order:?}"), PATIENCE, || {
                server.probe().served(Transport::Udp, OPEN).is_ok_and(|served| served == before + 1)
            })?;
        }
    }
    topology.close()
}
