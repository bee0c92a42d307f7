//! Whose sockets are translated where: the host's at the socket, those of pods at the socket or packet by packet, and
//! nobody else's.
use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::maps::MapId;
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    machine::{cgroup::Cgroup, netns::Netns, process::Place},
    probe::{
        client::Probe,
        wire::{Target, Transport},
    },
    topology::{AgentOptions, Pod, Topology},
};

use crate::{
    cluster_ip::{PORT, TARGET_PORT, service},
    expect::{LONG, SHORT, is_answered_by, target},
    sockets::mapped,
};

/// A port that no service here has.
const OTHER_PORT: u16 = PORT + 1;

const EVERY: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp];

fn server(topology: &Topology, name: &str, app: &str, node: usize) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(PodSpec::new("default", name).label("app", app).on(node))?;
    for transport in [Transport::Tcp, Transport::Udp] {
        pod.probe().listen(transport, TARGET_PORT)?;
    }
    Ok(pod)
}

#[test]
fn a_namespace_that_is_nobodys_pod_has_its_own_addresses() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let _web = server(&topology, "web", "web", 0)?;
    let services = [service(&topology, "web", "web")?, service(&topology, "empty", "nobody")?];
    topology.settle()?;
    // As a container engine beside Kubernetes makes it: below the node's cgroup root, with the same addresses inside.
    let node = topology.node(0);
    let netns = Netns::create(&topology.run().part("foreign"))?;
    let cgroup = Cgroup::create(node.cgroup(), "foreign")?;
    let place = Place { netns: &netns, cgroup: &cgroup, outlives: false, capabilities: None };
    let process = Probe::start(topology.run(), "foreign", place)?;
    for transport in [Transport::Tcp, Transport::Udp] {
        for port in [PORT, OTHER_PORT] {
            process.listen(transport, port)?;
        }
    }
    for to in services.concat() {
        let length = if to.is_ipv4() { 32 } else { 128 };
        netns.ip(&format!("addr add {}/{length} dev lo\n", to.ip()))?;
    }
    for to in services.concat() {
        for transport in EVERY {
            // Ours has no such port, which its own pods and hosts are refused at once.
            let other = SocketAddr::new(to.ip(), OTHER_PORT);
            for to in [to, other, mapped(to), mapped(other)] {
                is_answered_by("foreign", &process, target(transport, to))?;
            }
        }
    }
    // The same process in the host's namespace, and a pod, are served.
    for to in services[0] {
        is_answered_by("default/web", node.host(), Target::tcp(to))?;
    }
    drop((process, cgroup, netns));
    topology.close()
}

#[test]
fn the_namespaces_of_pods_are_known_from_add_to_del() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    let known = || Ok::<_, anyhow::Error>(node.maps().entries(MapId::NETNS)?.len());
    assert_eq!(known()?, 0);
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        topology.add_pod(PodSpec::new("default", name))?;
        assert_eq!(known()?, number + 1, "ADD answers when the namespace is known");
    }
    let before = node.maps().entries(MapId::NETNS)?;
    node.kill_agent()?;
    node.spawn_agent(&AgentOptions::default())?;
    node.await_agent()?;
    topology.settle()?;
    assert_eq!(node.maps().entries(MapId::NETNS)?, before);
    topology.delete_pod("default", "a")?;
    eventually("the namespace is forgotten", PATIENCE, || {
        ensure!(known()? == 1, "{} are known", known()?);
        Ok(())
    })?;
    topology.close()
}

#[test]
fn a_connected_udp_socket_of_a_pod_leaves_a_dead_backend() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let _first = server(&topology, "dns-0", "dns", 0)?;
    let _second = server(&topology, "dns-1", "dns", 1)?;
    let frontends = service(&topology, "dns", "dns")?;
    topology.settle()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let mut sockets = Vec::new();
    for to in frontends.into_iter().flat_map(|to| [to, mapped(to)]) {
        for transport in [Transport::Udp, Transport::UnconnectedUdp] {
            // Both backends are in use by some socket.
            for _ in 0..8 {
                let (socket, outcome) = client.probe().open(target(transport, to), LONG)?;
                ensure!(outcome.is_answered(), "{transport:?} {to}: {outcome}");
                sockets.push((socket, transport, to));
            }
        }
    }
    topology.delete_pod("default", "dns-0")?;
    topology.settle()?;
    for (socket, transport, to) in &sockets {
        eventually(format!("{transport:?} to {to} moves"), PATIENCE, || {
            let outcome = socket.exchange(SHORT)?;
            ensure!(outcome.by() == Some("default/dns-1"), "{outcome}");
            Ok(())
        })?;
    }
    drop(sockets);
    topology.close()
}

#[test]
fn one_port_reaches_two_services_with_one_backend() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, "web", "web", 1)?;
    let (first, second) = (service(&topology, "one", "web")?, service(&topology, "two", "web")?);
    topology.settle()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    for (number, is_v6) in [false, true].into_iter().enumerate() {
        let port = 40_000 + u16::try_from(number).context("two families")?;
        let from = SocketAddr::new(client.ip(is_v6), port);
        let mut held = Vec::new();
        for frontends in [first, second] {
            let to = frontends[usize::from(is_v6)];
            let (connection, outcome) = client.probe().open(Target::tcp(to).from(from), LONG)?;
            assert_eq!(outcome.by(), Some(pod.probe().name()), "{from} to {to}: {outcome}");
            assert_eq!(connection.peer_name()?, to);
            held.push(connection);
        }
        for connection in &held {
            assert_eq!(connection.exchange(LONG)?.by(), Some(pod.probe().name()), "both go on");
        }
    }
    topology.close()
}
