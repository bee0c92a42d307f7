//! A pod speaks only as itself.
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use dataplane_common::verdict::{DropReason, Hook};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, holds},
    kernel,
    packet::{Packet, Transport as PacketTransport},
    probe::wire::Transport,
    topology::{Pod, PodMacs, Topology},
};

const PORT: u16 = 80;
const FRAMES: u64 = 5;

/// A datagram from one address to another, as the pod's kernel would send it.
fn datagram(addresses: PodMacs, from: IpAddr, to: IpAddr) -> Packet {
    Packet::new(from, to, PacketTransport::udp(4000, PORT, b"who are you?\n".to_vec()))
        .between(addresses.pod, addresses.host)
}

fn send(pod: &Pod, packet: &Packet) -> Result<()> {
    let frames = vec![packet.bytes(); usize::try_from(FRAMES)?];
    pod.probe().send_frames("eth0", &frames).with_context(|| format!("send {packet}"))
}

#[test]
fn a_pod_that_sends_from_another_address_is_dropped_and_counted() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let liar = topology.add_pod(PodSpec::new("default", "liar"))?;
    let victim = topology.add_pod(PodSpec::new("default", "victim"))?;
    let server = topology.add_pod(PodSpec::new("default", "server").on(1))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    for pod in [&server, &near] {
        pod.probe().listen(Transport::Udp, PORT)?;
    }
    let addresses = liar.macs()?;
    let maps = topology.node(0).maps();
    for v6 in [false, true] {
        let sources = if v6 {
            [victim.ip(true), topology.node(0).spec().v6.into(), "2001:db8:113::10".parse()?, "::1".parse()?]
        } else {
            [
                victim.ip(false),
                topology.node(0).spec().v4.into(),
                "203.0.113.10".parse()?,
                "127.0.0.1".parse()?,
            ]
        };
        for to in [&server, &near] {
            for source in sources {
                let (before, dropped) = (to.probe().served(Transport::Udp, PORT)?, spoofed(&maps)?);
                send(&liar, &datagram(addresses, source, to.ip(v6)))?;
                holds(format!("{source} is counted"), PATIENCE, || {
                    spoofed(&maps).is_ok_and(|now| now == dropped + FRAMES)
                })?;
                assert_eq!(
                    to.probe().served(Transport::Udp, PORT)?,
                    before,
                    "{source} reached {}",
                    to.probe().name()
                );
            }
            // The same frame from the pod's own address arrives: the test can see what passes.
            let before = to.probe().served(Transport::Udp, PORT)?;
            send(&liar, &datagram(addresses, liar.ip(v6), to.ip(v6)))?;
            holds("the honest frames arrive", PATIENCE, || {
                to.probe().served(Transport::Udp, PORT).is_ok_and(|now| now == before + FRAMES)
            })?;
        }
    }
    topology.close()
}

#[test]
fn a_pod_that_sends_from_another_link_layer_address_is_dropped_and_counted() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let liar = topology.add_pod(PodSpec::new("default", "liar"))?;
    let victim = topology.add_pod(PodSpec::new("default", "victim"))?;
    victim.probe().listen(Transport::Udp, PORT)?;
    let addresses = liar.macs()?;
    let maps = topology.node(0).maps();
    for source in [victim.macs()?.pod, [2, 0, 0, 0, 0, 99]] {
        for v6 in [false, true] {
            let dropped = maps.drops(Hook::FromPod, DropReason::SpoofedMac)?;
            let packet = datagram(addresses, liar.ip(v6), victim.ip(v6)).between(source, addresses.host);
            send(&liar, &packet)?;
            holds("the frames are counted", PATIENCE, || {
                maps.drops(Hook::FromPod, DropReason::SpoofedMac).is_ok_and(|now| now == dropped + FRAMES)
            })?;
        }
    }
    assert_eq!(victim.probe().served(Transport::Udp, PORT)?, 0);
    topology.close()
}

fn spoofed(maps: &harness::topology::Maps) -> Result<u64> {
    maps.drops(Hook::FromPod, DropReason::SpoofedAddress)
}
