//! What a socket of the host remembers of the services that it uses: for as long as it lives, and no longer than its
//! backend does.
use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::maps::MapId;
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually, holds},
    kernel,
    probe::{
        client::{HeldConnection, Probe},
        wire::{Outcome, Target, Transport},
    },
    topology::Topology,
};

use crate::{
    cluster_ip::{TARGET_PORT, service},
    expect::{LONG, SHORT, target},
    sockets::{mapped, server, web},
};

pub(crate) const UDP: [Transport; 2] = [Transport::Udp, Transport::UnconnectedUdp];
/// For each family: more than any map of sockets holds.
const SHORT_SOCKETS: u32 = 80_000;

/// As IPv4 and IPv6 packets show it.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A socket that a test holds, and the server that answered it first.
pub(crate) struct Held<'a> {
    pub(crate) socket: HeldConnection<'a>,
    pub(crate) target: Target,
    pub(crate) server: String,
}

/// Sockets of each kind, as many of each, to each of these addresses and its mapped form.
pub(crate) fn open<'a>(
    process: &'a Probe,
    transports: &[Transport],
    to: [SocketAddr; 2],
) -> Result<Vec<Held<'a>>> {
    let mut sockets = Vec::new();
    for to in to.into_iter().flat_map(|to| [to, mapped(to)]) {
        for target in transports.iter().map(|transport| target(*transport, to)) {
            // So many that each backend is in use by some socket.
            for _ in 0..8 {
                let (socket, outcome) = process.open(target, LONG)?;
                let Some(server) = outcome.by().map(str::to_owned) else { bail!("{target:?}: {outcome}") };
                sockets.push(Held { socket, target, server });
            }
        }
    }
    Ok(sockets)
}

/// The socket still speaks to its first server, and sees the address that it asked for.
pub(crate) fn stays(held: &Held<'_>) -> Result<()> {
    let Held { socket, target, server } = held;
    let outcome = socket.exchange(LONG)?;
    let Outcome::Answered(answer) = &outcome else { bail!("{target:?}: {outcome}") };
    ensure!(answer.by == *server, "{target:?} moved from {server} to {}", answer.by);
    ensure!(canonical(answer.from) == canonical(target.to), "{target:?} sees {}", answer.from);
    Ok(())
}

#[test]
fn a_flood_of_short_sockets_takes_no_backend_from_a_socket_that_lives() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, 4)?;
    let host = topology.node(0).host();
    let sockets = open(host, &UDP, frontends)?;
    for Held { socket, target, server } in &sockets {
        if target.transport == Transport::Udp {
            // What it remembers is new, and nothing looks it up from now on: few processes ask for their peer.
            let backend = pods.iter().find(|pod| pod.probe().name() == server).context("no such server")?;
            let ip = backend.ip(canonical(target.to).is_ipv6());
            let as_written = if target.to.is_ipv6() { mapped } else { |addr| addr };
            socket.redirect(as_written(SocketAddr::new(ip, TARGET_PORT)))?;
            socket.redirect(target.to)?;
        }
    }
    for to in frontends {
        host.churn(to, SHORT_SOCKETS)?;
    }
    holds("only sockets that live are remembered as connected", PATIENCE, || {
        let peers = topology.node(0).maps().entries(MapId::UDP_PEERS);
        peers.is_ok_and(|peers| peers.len() <= sockets.len())
    })?;
    let _fifth = server(&topology, 4)?;
    topology.settle()?;
    let wrong: Vec<_> = sockets.iter().filter_map(|held| stays(held).err()).collect();
    let gone = pods[0].probe().name().to_owned();
    topology.delete_pod("default", "web-0")?;
    topology.settle()?;
    let mut hanging = Vec::new();
    for held in &sockets {
        if held.server != gone {
            continue;
        }
        let what = format!("{:?} is rid of its backend", held.target);
        let freed = eventually(what, Duration::from_secs(5), || {
            let outcome = held.socket.exchange(SHORT)?;
            // A connected one was disconnected, and is told so instead of something about the dead backend.
            ensure!(matches!(outcome, Outcome::Answered(_) | Outcome::Failed(_)), "it is {outcome}");
            // Connecting again helps.
            held.socket.redirect(held.target.to)?;
            let outcome = held.socket.exchange(SHORT)?;
            ensure!(outcome.is_answered(), "once more: {outcome}");
            Ok(())
        });
        hanging.extend(freed.err());
    }
    let rest = sockets.iter().filter(|held| held.server != gone).filter_map(|held| stays(held).err());
    let wrong: Vec<_> = wrong.into_iter().chain(rest).collect();
    ensure!(wrong.is_empty() && hanging.is_empty(), "of {} sockets: {wrong:?}; {hanging:?}", sockets.len());
    drop(sockets);
    topology.close()
}

#[test]
fn a_backend_that_is_asked_for_by_its_own_address_answers_as_itself() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, 1)?;
    let others = service(&topology, "other", "web")?;
    topology.settle()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    for process in [topology.node(0).host(), client.probe()] {
        for (to, other) in frontends.into_iter().zip(others) {
            let backend = SocketAddr::new(pods[0].ip(to.is_ipv6()), TARGET_PORT);
            for written in [|addr| addr, mapped] {
                for transport in UDP {
                    let (socket, outcome) = process.open(target(transport, written(to)), LONG)?;
                    ensure!(outcome.is_answered(), "{} {transport:?} {to}: {outcome}", process.name());
                    // Each in turn, and the first ones once more.
                    for asked in [backend, to, other, to, backend, other] {
                        socket.redirect(written(asked))?;
                        let outcome = socket.exchange(LONG)?;
                        let Outcome::Answered(answer) = outcome else {
                            bail!("{} {transport:?} {asked}: {outcome}", process.name())
                        };
                        assert_eq!(canonical(answer.from), asked, "{} {transport:?}", process.name());
                        if transport == Transport::Udp {
                            assert_eq!(canonical(socket.peer_name()?), asked, "{}", process.name());
                        }
                    }
                }
            }
        }
    }
    topology.close()
}

#[test]
fn a_socket_that_uses_many_services_sees_each_and_keeps_to_the_latest() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, first) = web(&topology, 4)?;
    let mut services = vec![first];
    for number in 1..12 {
        services.push(service(&topology, &format!("web-{number}"), "web")?);
    }
    topology.settle()?;
    let host = topology.node(0).host();
    for is_v6 in [false, true] {
        let frontends: Vec<_> = services.iter().map(|service| service[usize::from(is_v6)]).collect();
        let (socket, outcome) = host.open(target(Transport::UnconnectedUdp, frontends[0]), LONG)?;
        ensure!(outcome.is_answered(), "{}: {outcome}", frontends[0]);
        for round in 0..3 {
            for to in &frontends {
                socket.redirect(*to)?;
                let outcome = socket.exchange(LONG)?;
                let Outcome::Answered(answer) = outcome else { bail!("round {round}, {to}: {outcome}") };
                assert_eq!(answer.from, *to, "round {round}");
            }
        }
    }
    topology.close()
}

#[test]
fn a_connection_of_the_host_outlives_its_backends_readiness_and_not_its_pod() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    // The first pod runs on the host's own node, the second one on the other.
    let (pods, frontends) = web(&topology, 2)?;
    let host = topology.node(0).host();
    let mut connections = open(host, &[Transport::Tcp], frontends)?;
    for pod in &pods {
        for is_v6 in [false, true] {
            let direct = target(Transport::Tcp, SocketAddr::new(pod.ip(is_v6), TARGET_PORT));
            let (socket, outcome) = host.open(direct, LONG)?;
            ensure!(outcome.is_answered(), "{direct:?}: {outcome}");
            let server = pod.probe().name().to_owned();
            connections.push(Held { socket, target: direct, server });
        }
    }
    for pod in &pods {
        ensure!(connections.iter().any(|held| held.server == pod.probe().name()), "one has no client");
        topology.set_ready(pod, false)?;
    }
    topology.settle()?;
    connections.iter().try_for_each(stays)?;
    for (number, pod) in pods.iter().enumerate() {
        let name = pod.probe().name().to_owned();
        topology.delete_pod("default", &format!("web-{number}"))?;
        let (gone, rest): (Vec<_>, Vec<_>) = connections.into_iter().partition(|held| held.server == name);
        connections = rest;
        connections.iter().try_for_each(stays)?;
        for Held { socket, target, .. } in &gone {
            eventually(format!("{target:?} to {name} ends"), PATIENCE, || {
                let outcome = socket.exchange(Duration::from_secs(1))?;
                ensure!(outcome != Outcome::TimedOut && !outcome.is_answered(), "it is {outcome}");
                Ok(())
            })?;
        }
    }
    drop(connections);
    topology.close()
}
