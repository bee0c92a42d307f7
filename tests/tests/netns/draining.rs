//! Datagrams of those who have a backend that gets no new flows: as long as it serves, they go there.
use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::Probe,
        wire::{Outcome, Transport},
    },
    topology::Topology,
};

use crate::{
    cluster_ip::{PORT, TARGET_PORT},
    expect::{LONG, SHORT, answers, target},
    socket_pins::{Held, UDP, open, stays},
    sockets::{server, web},
};

/// Each kind of socket of each client, at both backends.
fn open_all<'a>(
    clients: &[&'a Probe],
    transports: &[Transport],
    frontends: [SocketAddr; 2],
) -> Result<Vec<(&'a Probe, Held<'a>)>> {
    let mut held = Vec::new();
    for client in clients {
        held.extend(open(client, transports, frontends)?.into_iter().map(|socket| (*client, socket)));
    }
    Ok(held)
}

#[test]
fn a_backend_that_terminates_keeps_its_datagrams_for_as_long_as_it_serves() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, 2)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let clients = [topology.node(0).host(), topology.node(1).host(), client.probe()];
    let datagrams = open_all(&clients, &UDP, frontends)?;
    let connections = open_all(&clients, &[Transport::Tcp], frontends)?;
    let all_stay = || datagrams.iter().chain(&connections).try_for_each(|(_, held)| stays(held));
    // A second exchange each: conversations, which stay. A question that was answered leaves after three seconds.
    all_stay()?;
    let leaving = pods[0].probe().name().to_owned();
    let terminate = |serving| {
        topology.control_plane.update_pod(pods[0].namespace(), pods[0].name(), |_, status| {
            status.terminating = true;
            status.ready = serving;
        })
    };

    terminate(true)?;
    topology.settle()?;
    for client in clients {
        for to in frontends {
            let fresh = [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp];
            let targets: Vec<_> = fresh.iter().flat_map(|transport| [target(*transport, to); 16]).collect();
            for answer in answers(client, &targets)? {
                ensure!(answer.by != leaving, "{} got what terminates for {to}", client.name());
            }
        }
    }
    // For longer than the collector takes to look at everything, twice.
    for _ in 0..5 {
        all_stay()?;
        thread::sleep(Duration::from_millis(500));
    }
    // Another change of the service, while it terminates.
    let _third = server(&topology, 2)?;
    topology.settle()?;
    all_stay()?;

    terminate(false)?;
    topology.settle()?;
    for (client, held) in &datagrams {
        if held.server != leaving {
            stays(held)?;
            continue;
        }
        eventually(format!("{} {:?} leaves it", client.name(), held.target), PATIENCE, || {
            let outcome = held.socket.exchange(SHORT)?;
            if matches!(outcome, Outcome::Failed(_)) {
                held.socket.redirect(held.target.to)?;
            }
            let by = outcome.by();
            ensure!(by.is_some_and(|by| by != leaving), "it is {outcome}");
            Ok(())
        })?;
    }
    connections.iter().try_for_each(|(_, held)| stays(held))?;
    drop((datagrams, connections));
    topology.close()
}

#[test]
fn a_traffic_policy_takes_no_datagrams_from_a_backend_that_serves() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (pods, frontends) = web(&topology, 2)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let clients = [topology.node(0).host(), client.probe()];
    let held = open_all(&clients, &UDP, frontends)?;
    held.iter().try_for_each(|(_, held)| stays(held))?;
    let mut spec = ServiceSpec::new("default", "web")
        .select("app", "web")
        .port(Protocol::Tcp, PORT, TARGET_PORT)
        .port(Protocol::Udp, PORT, TARGET_PORT);
    spec.local_only = true;
    topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    for client in clients {
        for to in frontends {
            for answer in answers(client, &[target(Transport::Udp, to); 16])? {
                ensure!(answer.by == pods[0].probe().name(), "{} got {}", client.name(), answer.by);
            }
        }
    }
    for _ in 0..3 {
        held.iter().try_for_each(|(_, held)| stays(held))?;
        thread::sleep(LONG / 4);
    }
    drop(held);
    topology.close()
}
