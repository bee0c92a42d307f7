//! What carries a VLAN tag belongs to another link: it reaches no pod, wherever it comes from.
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::{DropReason, Hook};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, holds},
    kernel,
    packet::{Packet, Transport as PacketTransport},
    probe::client::Probe,
    topology::{Node, Pod, Topology},
};

use crate::capture::Capture;

const PORT: u16 = 80;
/// Of no link of a node. The tag 0 names none: it is a priority, and the host's stack takes it off (IEEE 802.1Q).
const TAG: u16 = 42;

fn datagram(from: &Pod, to: &Pod, v6: bool, words: &[u8]) -> Packet {
    Packet::new(from.ip(v6), to.ip(v6), PacketTransport::udp(4000, PORT, words.to_vec()))
}

/// Nothing of the packet with a tag reaches the pod, whatever interfaces of its own it may have there, and the one without
/// does, which is sent behind it.
fn only_what_has_no_tag_arrives(
    sender: &Probe,
    packet: impl Fn(&[u8]) -> Packet,
    receiver: &Pod,
) -> Result<()> {
    const WITH_TAG: &[u8] = b"with a tag";
    const WITHOUT: &[u8] = b"without one";
    let mut capture = Capture::start(receiver.netns())?;
    let tagged = Packet { vlans: vec![TAG], ..packet(WITH_TAG) };
    sender.send_frames("eth0", &[tagged.bytes(), packet(WITHOUT).bytes()])?;
    let (mut with_tag, mut without) = (0, 0);
    holds(format!("{} arrives", packet(WITHOUT)), PATIENCE, || {
        for frame in capture.with_any_of(&[WITH_TAG, WITHOUT]) {
            let has_tag = frame.windows(WITH_TAG.len()).any(|words| words == WITH_TAG);
            *if has_tag { &mut with_tag } else { &mut without } += 1;
        }
        without > 0
    })?;
    ensure!(with_tag == 0, "{tagged} arrived at {}", receiver.name());
    Ok(())
}

/// The link-layer address of a node's uplink.
fn uplink_mac(node: &Node) -> Result<[u8; 6]> {
    let shown =
        node.netns().run(|| Command::new("ip").args(["-json", "link", "show", "eth0"]).output())??;
    let links: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let mac = links[0]["address"].as_str().context("the uplink has no address")?;
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("an address of another length")
}

#[test]
fn a_pod_reaches_nobody_with_a_tag() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    let macs = client.macs()?;
    let counters = topology.node(0).maps();
    for server in [&near, &far] {
        for v6 in [false, true] {
            let before = counters.drops(Hook::FromPod, DropReason::UnsupportedProtocol)?;
            let packet = |words: &[u8]| datagram(&client, server, v6, words).between(macs.pod, macs.host);
            only_what_has_no_tag_arrives(client.probe(), packet, server)?;
            let dropped = counters.drops(Hook::FromPod, DropReason::UnsupportedProtocol)? - before;
            assert_eq!(dropped, 1);
        }
    }
    topology.close()
}

#[test]
fn another_machine_reaches_no_pod_with_a_tag() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    let [here, there] = [topology.node(0), topology.node(1)];
    let (to, from) = (uplink_mac(here)?, uplink_mac(there)?);
    for v6 in [false, true] {
        let packet = |words: &[u8]| datagram(&far, &server, v6, words).between(from, to);
        only_what_has_no_tag_arrives(there.host(), packet, &server)?;
    }
    topology.close()
}
