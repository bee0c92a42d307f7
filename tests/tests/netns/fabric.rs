//! The ground that the other tests stand on: nodes reach each other, probes tell outcomes apart, nothing stays.
use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use harness::{
    kernel,
    probe::wire::{Outcome, Target, Transport},
    topology::{CLIENT_V4, CLIENT_V6, Options, Topology},
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3);

#[test]
fn nodes_and_the_outside_client_reach_each_other_in_both_families() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let server = topology.node(1).host();
    for transport in [Transport::Tcp, Transport::Udp] {
        server.listen(transport, 80)?;
        topology.client().listen(transport, 80)?;
        for to in topology.node(1).addresses().into_iter().take(2) {
            for client in [topology.node(0).host(), topology.client()] {
                let to = SocketAddr::new(to, 80);
                let outcome = client.probe_one(Target { transport, to, from: None }, LONG)?;
                assert_eq!(
                    outcome.by(),
                    Some("node-2"),
                    "{} to {to} {transport:?}: {outcome}",
                    client.name()
                );
            }
        }
        for to in [CLIENT_V4.into(), CLIENT_V6.into()] {
            let to = SocketAddr::new(to, 80);
            let outcome = topology.node(0).host().probe_one(Target { transport, to, from: None }, LONG)?;
            assert_eq!(outcome.by(), Some("client"), "node-1 to {to} {transport:?}: {outcome}");
        }
    }
    topology.close()
}

#[test]
fn probes_tell_refusal_silence_and_no_route_apart() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let probe = topology.node(0).host();
    let closed = SocketAddr::new(topology.node(1).spec().v4.into(), 9);
    topology.client().listen(Transport::Tcp, 81)?;
    let outside = SocketAddr::new(CLIENT_V4.into(), 81);
    topology
        .fabric()
        .netns()
        .ip("route add blackhole 198.51.100.0/24\nroute add unreachable 198.51.100.9\n")?;
    topology.fabric().client().ip("route add blackhole 192.168.77.11\n")?;
    let unreachable: SocketAddr = "198.51.100.9:80".parse()?;

    assert_eq!(probe.probe_one(Target::tcp(closed), LONG)?, Outcome::Refused);
    assert_eq!(probe.probe_one(Target::udp(closed), LONG)?, Outcome::Refused);
    assert_eq!(probe.probe_one(Target::tcp(outside), SHORT)?, Outcome::TimedOut);
    assert_eq!(probe.probe_one(Target::udp(outside), SHORT)?, Outcome::TimedOut);
    assert_eq!(probe.probe_one(Target::tcp(unreachable), LONG)?, Outcome::Unreachable);
    topology.close()
}

#[test]
fn held_connections_survive_and_end_with_their_server() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let (client, server) = (topology.node(0).host(), topology.node(1).host());
    server.listen(Transport::Tcp, 80)?;
    let to = SocketAddr::new(topology.node(1).spec().v6.into(), 80);
    let (connection, first) = client.open(Target::tcp(to), LONG)?;
    assert_eq!(first.by(), Some("node-2"));
    assert_eq!(connection.peer_name()?, to);
    assert_eq!(connection.exchange(LONG)?.by(), Some("node-2"));
    assert_eq!(server.served(Transport::Tcp, 80)?, 2);
    server.unlisten(Transport::Tcp, 80)?;
    assert_eq!(connection.exchange(LONG)?, Outcome::Reset);
    drop(connection);
    topology.close()
}

#[test]
fn a_topology_leaves_nothing_behind_when_a_test_panics() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options::default())?;
    let run = topology.run().clone();
    let left = run.leftovers()?;
    for kind in ["network namespace", "mount", "folder", "process"] {
        assert!(left.iter().any(|left| left.starts_with(kind)), "{kind} is not in the ledger: {left:?}");
    }
    let panic = std::thread::spawn(move || {
        let _topology = topology;
        panic!("as a failed assertion does");
    })
    .join();
    assert!(panic.is_err());
    assert_eq!(run.leftovers()?, Vec::<String>::new());
    Ok(())
}
