//! Addresses that nobody has: the client is told at once, and nothing loops between node and router.
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    kernel,
    probe::{
        client::Probe,
        wire::{Outcome, Transport},
    },
    topology::{Node, Topology},
};

use crate::expect::{LONG, answer, target};

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
