//! Services by cluster IP: at the socket and packet by packet, with one verdict.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::Probe,
        wire::{Outcome, Target, Transport},
    },
    topology::{Pod, Topology},
};

use crate::expect::{LONG, SHORT, TRANSPORTS, answer, answers, is_answered_by, is_silent, target};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET_PORT: u16 = 8080;

/// A Service `web` with these pods behind it, each on the node of that index.
fn web(topology: &Topology, nodes: &[usize]) -> Result<(Vec<Arc<Pod>>, [SocketAddr; 2])> {
    let mut pods = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let spec = PodSpec::new("default", &format!("web-{number}")).label("app", "web").on(*node);
        let pod = topology.add_pod(spec)?;
        for transport in TRANSPORTS {
            pod.probe().listen(transport, TARGET_PORT)?;
        }
        pods.push(pod);
    }
    let frontends = service(topology, "web", "web")?;
    topology.settle()?;
    Ok((pods, frontends))
}

/// A Service that selects an `app`, TCP and UDP.
pub(crate) fn service(topology: &Topology, name: &str, app: &str) -> Result<[SocketAddr; 2]> {
    let spec = ServiceSpec::new("default", name)
        .select("app", app)
        .port(Protocol::Tcp, PORT, TARGET_PORT)
        .port(Protocol::Udp, PORT, TARGET_PORT);
    let ips = topology.control_plane.apply_service(&spec)?;
    Ok(ips.both().map(|ip| SocketAddr::new(ip, PORT)))
}

/// How often each server answers.
fn spread(client: &Probe, target: Target, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut spread = BTreeMap::new();
    for answer in answers(client, &vec![target; times])? {
        *spread.entry(answer.by).or_insert(0) += 1;
    }
    Ok(spread)
}

#[test]
fn connections_are_spread_over_the_pods_of_both_nodes() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, &[0, 0, 1, 1])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    for client in [client.probe(), &bystander, topology.node(0).host(), topology.node(1).host()] {
        for transport in TRANSPORTS {
            for to in frontends {
                let spread = spread(client, target(transport, to), 120)?;
                // 30 each on average; below 10 by chance once in a million.
                assert!(spread.len() == 4, "{} {transport:?} {to}: {spread:?}", client.name());
                assert!(
                    spread.values().all(|count| *count >= 10),
                    "{} {transport:?} {to}: {spread:?}",
                    client.name()
                );
            }
        }
    }
    topology.close()
}

#[test]
fn the_packet_path_and_the_socket_path_show_the_same_addresses() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, &[0, 1])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    for process in [client.probe(), &bystander] {
        for transport in [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp] {
            for to in frontends {
                for answer in answers(process, &[target(transport, to); 8])? {
                    assert_eq!(answer.saw.ip(), client.ip(to.is_ipv6()), "the server sees the client");
                    assert_eq!(
                        answer.from,
                        to,
                        "the client sees the cluster IP: {} {transport:?}",
                        process.name()
                    );
                }
            }
        }
    }
    topology.close()
}

#[test]
fn a_process_sees_the_cluster_ip_that_it_asked_for() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, &[0, 1])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    for process in [client.probe(), topology.node(0).host()] {
        for transport in TRANSPORTS {
            for to in frontends {
                let (connection, outcome) = process.open(target(transport, to), LONG)?;
                assert!(outcome.is_answered(), "{} {transport:?} {to}: {outcome}", process.name());
                assert_eq!(connection.peer_name()?, to, "getpeername: {} {transport:?}", process.name());
            }
        }
        for to in frontends {
            let answer = answer(process, target(Transport::UnconnectedUdp, to))?;
            assert_eq!(answer.from, to, "recvfrom: {}", process.name());
        }
    }
    topology.close()
}

#[test]
fn a_pod_that_becomes_unready_loses_its_traffic() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, &[0, 1])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    for (away, stays) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        topology.set_ready(away, false)?;
        topology.settle()?;
        for process in [client.probe(), &bystander, topology.node(0).host()] {
            for transport in TRANSPORTS {
                for to in frontends {
                    let spread = spread(process, target(transport, to), 40)?;
                    assert_eq!(spread, BTreeMap::from([(stays.probe().name().to_owned(), 40)]));
                }
            }
        }
        topology.set_ready(away, true)?;
    }
    topology.close()
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let frontends = service(&topology, "empty", "nobody")?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    topology.settle()?;
    for process in [client.probe(), &bystander, topology.node(0).host()] {
        for transport in TRANSPORTS {
            for to in frontends {
                let begun = Instant::now();
                let outcome = process.probe_one(target(transport, to), LONG)?;
                assert_eq!(outcome, Outcome::Refused, "{} {transport:?} {to}", process.name());
                let took = begun.elapsed();
                assert!(took < Duration::from_millis(500), "{} {transport:?} {to}: {took:?}", process.name());
            }
        }
    }
    topology.close()
}

#[test]
fn a_local_service_uses_backends_of_its_node_and_drops_where_there_is_none() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, _) = web(&topology, &[0, 1])?;
    let mut spec =
        ServiceSpec::new("default", "local").select("app", "web").port(Protocol::Tcp, PORT, TARGET_PORT);
    spec.local_only = true;
    let ips = topology.control_plane.apply_service(&spec)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    topology.settle()?;
    for process in [client.probe(), &bystander] {
        for ip in ips.both() {
            let spread = spread(process, Target::tcp((ip, PORT).into()), 20)?;
            assert_eq!(spread, BTreeMap::from([(pods[0].probe().name().to_owned(), 20)]));
        }
    }
    topology.set_ready(&pods[0], false)?;
    topology.settle()?;
    for ip in ips.both() {
        is_silent(&bystander, Target::tcp((ip, PORT).into()))?;
    }
    topology.close()
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, &[0])?;
    let bystander = topology.bystander(&pods[0])?;
    for process in [pods[0].probe(), &bystander] {
        for transport in TRANSPORTS {
            for to in frontends {
                is_answered_by("default/web-0", process, target(transport, to))?;
            }
        }
    }
    topology.close()
}

#[test]
fn a_connected_udp_socket_of_the_host_is_not_left_with_a_dead_backend() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, &[0, 1])?;
    let host = topology.node(0).host();
    let mut connections = Vec::new();
    for to in frontends {
        // Both backends are in use by some connection.
        for _ in 0..16 {
            let (connection, outcome) = host.open(Target::udp(to), LONG)?;
            let server = outcome.by().unwrap_or_default().to_owned();
            connections.push((connection, to, server));
        }
    }
    topology.delete_pod("default", "web-0")?;
    topology.settle()?;
    for (connection, to, server) in connections {
        if server == "default/web-1" {
            assert_eq!(
                connection.exchange(LONG)?.by(),
                Some("default/web-1"),
                "the live backend keeps its sockets"
            );
            continue;
        }
        // The application hears of it, and its next socket works.
        eventually("the socket is cut loose", PATIENCE, || {
            ensure!(connection.exchange(SHORT)? != Outcome::TimedOut, "it waits for a dead backend");
            Ok(())
        })?;
        is_answered_by("default/web-1", host, Target::udp(to))?;
    }
    topology.close()
}

#[test]
fn established_connections_to_a_service_survive_changes_of_its_backends() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, &[0, 1])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    let mut connections = Vec::new();
    for process in [client.probe(), &bystander] {
        for to in [frontends; 4].concat() {
            let (connection, outcome) = process.open(Target::tcp(to), LONG)?;
            let server = outcome.by().unwrap_or_default().to_owned();
            connections.push((connection, server));
        }
    }
    for ready in [false, true, false] {
        topology.set_ready(&pods[1], ready)?;
        topology.settle()?;
        for (connection, server) in &connections {
            assert_eq!(connection.exchange(LONG)?.by(), Some(server.as_str()));
        }
    }
    drop(connections);
    topology.close()
}
