//! A pod and its link: the gateway answers whatever the pod has forgotten, and nobody else hears what it tells.
use std::{
    net::{IpAddr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{
    config::GATEWAY_V6,
    verdict::{DropReason, Hook},
};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, holds},
    kernel,
    machine::netns::Netns,
    packet::{Network, Packet, Transport as PacketTransport},
    probe::wire::Transport,
    topology::{Pod, Topology},
};

use crate::{
    capture::Capture,
    expect::{TRANSPORTS, becomes_answered, is_answered_by, target},
};

const PORT: u16 = 80;
const SECRET: &[u8] = b"what no policy lets through";

/// What a namespace knows of its neighbours, but how long ago it used them.
fn neighbours(netns: &Netns) -> Result<Vec<String>> {
    let output = Command::new("ip").args(["-n", netns.name(), "neigh", "show"]).output().context("run ip")?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// The neighbours of the pods' interfaces: those of the uplink come and go.
fn pod_neighbours(netns: &Netns) -> Result<Vec<String>> {
    Ok(neighbours(netns)?.into_iter().filter(|line| !line.contains("dev eth0 ")).collect())
}

/// An `ICMPv6` packet of the types that neighbour discovery and listener reports use, with a text in it.
fn letter(pod: &Pod, from: IpAddr, to: IpAddr, kind: u8, hop_limit: u8) -> Result<Packet> {
    let mut data = Ipv6Addr::from(GATEWAY_V6).octets().to_vec();
    data.extend(SECRET);
    let macs = pod.macs()?;
    let icmp = PacketTransport::Icmp { kind, code: 0, rest: [0; 4], data };
    let mut packet = Packet::new(from, to, icmp).between(macs.pod, macs.host);
    if let Network::V6(ip) = &mut packet.network {
        ip.hop_limit = hop_limit;
    }
    Ok(packet)
}

fn drops(topology: &Topology) -> Result<u64> {
    let maps = topology.node(0).maps();
    DropReason::ALL.iter().map(|reason| maps.drops(Hook::FromPod, *reason)).sum()
}

#[test]
fn a_pod_that_forgets_its_gateway_works_on() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "forgetful"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    for server in [&near, &far] {
        for transport in TRANSPORTS {
            server.probe().listen(transport, PORT)?;
        }
    }
    let host = pod_neighbours(topology.node(0).netns())?;
    for forget in ["neigh flush dev eth0 nud all", "neigh flush dev eth0"] {
        pod.netns().ip(forget)?;
        for server in [&near, &far] {
            for at in server.at(PORT) {
                for transport in TRANSPORTS {
                    is_answered_by(server.probe().name(), pod.probe(), target(transport, at))
                        .with_context(|| format!("after {forget}"))?;
                }
            }
        }
        let known = neighbours(pod.netns())?;
        ensure!(known.iter().any(|line| line.starts_with("169.254.1.1 ")), "{known:?}");
        ensure!(known.iter().any(|line| line.starts_with("fe80::1 ")), "{known:?}");
        ensure!(known.iter().all(|line| !line.contains("PERMANENT")), "{known:?}");
    }
    // Its own node reaches it as before, over entries that are as before.
    pod.probe().listen(Transport::Tcp, PORT)?;
    for at in pod.at(PORT) {
        becomes_answered(topology.node(0).host(), target(Transport::Tcp, at))?;
    }
    assert_eq!(pod_neighbours(topology.node(0).netns())?, host);
    topology.close()
}

#[test]
fn neighbour_discovery_carries_nothing_to_another_pod() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let sender = topology.add_pod(PodSpec::new("default", "sender"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    for to in [&near, &far] {
        let mut capture = Capture::start(to.netns())?;
        // The answer to an echo is a flow, nothing forbids it here and nobody answers it: the test can see what arrives.
        let echo = letter(&sender, sender.ip(true), to.ip(true), 129, 64)?;
        sender.probe().send_frames("eth0", &[echo.bytes()])?;
        let mut arrived = 0;
        holds("the echo arrives", PATIENCE, || {
            arrived += capture.frames_with(SECRET);
            arrived > 0
        })?;
        for source in [sender.ip(true), near.ip(true), "fe80::77".parse()?, "::".parse()?] {
            let kinds = (130..=137).chain([143]);
            let letters = kinds.flat_map(|kind| [1, 64, 255].map(|hop_limit| (kind, hop_limit)));
            let frames = letters
                .map(|(kind, hops)| Ok(letter(&sender, source, to.ip(true), kind, hops)?.bytes()))
                .collect::<Result<Vec<_>>>()?;
            let before = drops(&topology)?;
            sender.probe().send_frames("eth0", &frames)?;
            holds(format!("all from {source} are counted"), PATIENCE, || {
                drops(&topology).is_ok_and(|now| now >= before + frames.len() as u64)
            })?;
        }
        // What is sent last arrives last.
        sender.probe().send_frames("eth0", &[echo.bytes()])?;
        let mut arrived = 0;
        holds("the last echo arrives", PATIENCE, || {
            arrived += capture.frames_with(SECRET);
            arrived > 0
        })?;
        assert_eq!(arrived, 1, "neighbour discovery reached {}", to.name());
    }
    topology.close()
}

#[test]
fn a_pod_cannot_fill_the_neighbour_table_of_its_host() -> Result<()> {
    const SOURCES: u16 = 2000;
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "liar"))?;
    let macs = pod.macs()?;
    let host = topology.node(0).netns();
    let before = pod_neighbours(host)?;
    let gateway = IpAddr::from(GATEWAY_V6);
    let frames = (0..SOURCES).map(|number| {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xbad, 0, 0, number);
        let mut data = GATEWAY_V6.to_vec();
        data.extend([1, 1]);
        data.extend(macs.pod);
        let icmp = PacketTransport::Icmp { kind: 135, code: 0, rest: [0; 4], data };
        let mut packet = Packet::new(source.into(), gateway, icmp).between(macs.pod, macs.host);
        if let Network::V6(ip) = &mut packet.network {
            ip.hop_limit = 255;
        }
        packet.bytes()
    });
    pod.probe().send_frames("eth0", &frames.collect::<Vec<_>>())?;
    // What is sent last arrives last, and is dropped for its source.
    let dropped = drops(&topology)?;
    let last = letter(&pod, "fd00:bad::1".parse()?, gateway, 128, 64)?;
    pod.probe().send_frames("eth0", &[last.bytes()])?;
    holds("the last frame is counted", PATIENCE, || drops(&topology).is_ok_and(|now| now > dropped))?;
    assert_eq!(pod_neighbours(host)?, before);
    topology.close()
}
