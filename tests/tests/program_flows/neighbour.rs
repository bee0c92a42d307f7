//! What a pod may say to its link, what is answered, and what is dropped.
use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use dataplane_common::{
    config::{GATEWAY_V4, GATEWAY_V6},
    verdict::{DropReason, Hook},
};
use harness::{
    packet::{Extension, ExtensionKind, Network, Packet, Transport, verify},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
    },
};

use crate::{World, in_both_families};

const GATEWAY: Ipv6Addr = Ipv6Addr::from_octets(GATEWAY_V6);
const OF_GATEWAY: &str = "ff02::1:ff00:1";
const LINK_LOCAL: &str = "fe80::42";

/// An ARP packet of the first pod.
fn arp(operation: u8, mac: [u8; 6], sender: IpAddr, target: [u8; 4]) -> Packet {
    let IpAddr::V4(sender) = sender else { panic!("ARP is for IPv4") };
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(mac);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target);
    Packet {
        source_mac: pod_mac(1),
        destination_mac: [0xff; 6],
        vlans: Vec::new(),
        network: Network::Other { ethertype: 0x0806, bytes },
    }
}

/// A packet of neighbour discovery about `target`, with an option that names a link-layer address.
fn discovery(kind: u8, source: &str, destination: &str, target: Ipv6Addr, option: Option<[u8; 6]>) -> Packet {
    let mut data = if kind == 133 { Vec::new() } else { target.octets().to_vec() };
    if let Some(mac) = option {
        data.extend([if kind == 136 { 2 } else { 1 }, 1]);
        data.extend(mac);
    }
    let transport = Transport::Icmp { kind, code: 0, rest: [0; 4], data };
    let packet =
        Packet::new(source.parse().expect("an address"), destination.parse().expect("an address"), transport);
    with_hop_limit(packet.between(pod_mac(1), host_mac(1)), 255)
}

fn with_hop_limit(mut packet: Packet, hop_limit: u8) -> Packet {
    match &mut packet.network {
        Network::V6(ip) => ip.hop_limit = hop_limit,
        Network::V4(_) | Network::Other { .. } => panic!("not IPv6"),
    }
    packet
}

impl World<'_> {
    fn verdict(&self, packet: &Packet) -> Result<Verdict> {
        Ok(self.programs.from_pod(self.interfaces[0], packet)?.verdict)
    }

    fn own_v6(&self) -> Option<Ipv6Addr> {
        if let IpAddr::V6(own) = self.a { Some(own) } else { None }
    }
}

#[test]
fn the_gateway_is_answered_for_in_arp() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        if world.a.is_ipv6() {
            return Ok(());
        }
        let run = world.programs.from_pod(world.interfaces[0], &arp(1, pod_mac(1), world.a, GATEWAY_V4))?;
        assert_eq!(run.verdict, Verdict::Answer);
        let mut reply =
            arp(2, host_mac(1), IpAddr::from(GATEWAY_V4), [10, 1, 0, 2]).between(host_mac(1), pod_mac(1));
        if let Network::Other { bytes, .. } = &mut reply.network {
            bytes[18..24].copy_from_slice(&pod_mac(1));
        }
        assert_eq!(run.frame, reply.bytes());
        Ok(())
    })
}

#[test]
fn lies_in_arp_are_dropped_and_what_needs_no_answer_ends() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let IpAddr::V4(own) = world.a else { return Ok(()) };
        let (spoofed, mac) = (DropReason::SpoofedAddress, DropReason::SpoofedMac);
        let elsewhere = Verdict::Drop(DropReason::NeighbourElsewhere);
        let nobody = IpAddr::from([0, 0, 0, 0]);
        for (packet, verdict) in [
            (arp(1, pod_mac(1), world.a, own.octets()), Verdict::Heard),
            (arp(2, pod_mac(1), world.a, GATEWAY_V4), Verdict::Heard),
            (arp(1, pod_mac(1), nobody, own.octets()), Verdict::Heard),
            (arp(2, pod_mac(1), nobody, own.octets()), Verdict::Drop(spoofed)),
            (arp(1, pod_mac(1), nobody, GATEWAY_V4), Verdict::Drop(spoofed)),
            (arp(2, pod_mac(1), world.b, own.octets()), Verdict::Drop(spoofed)),
            (arp(1, pod_mac(1), world.outside, GATEWAY_V4), Verdict::Drop(spoofed)),
            (arp(2, pod_mac(1), IpAddr::from(GATEWAY_V4), own.octets()), Verdict::Drop(spoofed)),
            (arp(1, pod_mac(2), world.a, GATEWAY_V4), Verdict::Drop(mac)),
            (arp(1, pod_mac(1), world.a, GATEWAY_V4).between(pod_mac(2), [0xff; 6]), Verdict::Drop(mac)),
            (arp(1, pod_mac(2), world.a, GATEWAY_V4).between(pod_mac(2), [0xff; 6]), Verdict::Drop(mac)),
            (arp(1, pod_mac(1), world.a, [10, 1, 0, 3]), elsewhere),
            (arp(3, pod_mac(1), world.a, GATEWAY_V4), Verdict::Drop(DropReason::NeighbourMalformed)),
        ] {
            assert_eq!(world.verdict(&packet)?, verdict, "{packet:?}");
        }
        let short = &arp(1, pod_mac(1), world.a, GATEWAY_V4).bytes()[..41];
        let run = world.programs.run(Hook::FromPod, world.interfaces[0], short)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::Truncated));
        Ok(())
    })
}

#[test]
fn the_gateway_is_answered_for_in_neighbour_discovery() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let Some(own) = world.own_v6() else { return Ok(()) };
        let own = own.to_string();
        // Longer and shorter than the answer: with a nonce, without an option.
        let mut with_nonce = discovery(135, &own, OF_GATEWAY, GATEWAY, Some(pod_mac(1)));
        if let Some(Transport::Icmp { data, .. }) = with_nonce.transport_mut() {
            data.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        }
        let to_gateway = GATEWAY.to_string();
        for (question, asker) in [
            (discovery(135, &own, OF_GATEWAY, GATEWAY, Some(pod_mac(1))), own.as_str()),
            (discovery(135, &own, OF_GATEWAY, GATEWAY, None), &own),
            (with_nonce, &own),
            (discovery(135, &own, &to_gateway, GATEWAY, Some(pod_mac(1))), &own),
            (discovery(135, LINK_LOCAL, &to_gateway, GATEWAY, Some(pod_mac(1))), LINK_LOCAL),
        ] {
            let run = world.programs.from_pod(world.interfaces[0], &question)?;
            assert_eq!(run.verdict, Verdict::Answer, "{question:?}");
            let mut answer = discovery(136, &to_gateway, asker, GATEWAY, Some(host_mac(1)))
                .between(host_mac(1), pod_mac(1));
            if let Some(Transport::Icmp { rest, .. }) = answer.transport_mut() {
                rest[0] = 0xe0;
            }
            assert_eq!(verify(&run.frame)?, answer);
        }
        Ok(())
    })
}

#[test]
fn what_a_pod_may_tell_its_link_ends_there() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let Some(address) = world.own_v6() else { return Ok(()) };
        let own = address.to_string();
        let of_own = "ff02::1:ff00:2";
        let link_local: Ipv6Addr = LINK_LOCAL.parse()?;
        for packet in [
            discovery(135, "::", of_own, address, None),
            discovery(135, "::", "ff02::1:ff00:42", link_local, None),
            discovery(135, LINK_LOCAL, OF_GATEWAY, GATEWAY, Some(pod_mac(1))),
            discovery(136, &own, "ff02::1", address, Some(pod_mac(1))),
            discovery(136, LINK_LOCAL, "fe80::99", link_local, Some(pod_mac(1))),
            discovery(133, "::", "ff02::2", link_local, None),
            discovery(133, LINK_LOCAL, "ff02::2", link_local, Some(pod_mac(1))),
            with_hop_limit(discovery(143, LINK_LOCAL, "ff02::16", link_local, None), 1),
            with_hop_limit(discovery(131, "::", "ff0e::5", link_local, None), 1),
            with_hop_limit(discovery(132, LINK_LOCAL, "ff02::2", link_local, None), 1),
        ] {
            assert_eq!(world.verdict(&packet)?, Verdict::Heard, "{packet:?}");
        }
        Ok(())
    })
}

#[test]
fn neighbour_discovery_that_lies_or_leads_elsewhere_is_dropped() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let Some(address) = world.own_v6() else { return Ok(()) };
        let (own, near, far) = (address.to_string(), world.b.to_string(), world.remote.to_string());
        let (IpAddr::V6(near_target), gateway) = (world.b, GATEWAY.to_string()) else { unreachable!() };
        let (spoofed, mac) = (DropReason::SpoofedAddress, DropReason::SpoofedMac);
        let (elsewhere, malformed) = (DropReason::NeighbourElsewhere, DropReason::NeighbourMalformed);
        let solicitation = || discovery(135, &own, OF_GATEWAY, GATEWAY, Some(pod_mac(1)));
        let mut coded = solicitation();
        if let Some(Transport::Icmp { code, .. }) = coded.transport_mut() {
            *code = 1;
        }
        let mut extended = solicitation();
        if let Network::V6(ip) = &mut extended.network {
            ip.extensions =
                vec![Extension { kind: ExtensionKind::DestinationOptions, body: vec![1, 4, 0, 0, 0, 0] }];
        }
        for (packet, reason) in [
            (discovery(135, &near, OF_GATEWAY, GATEWAY, Some(pod_mac(1))), spoofed),
            (discovery(135, "::", OF_GATEWAY, GATEWAY, None), spoofed),
            (discovery(135, &gateway, OF_GATEWAY, GATEWAY, None), spoofed),
            (discovery(135, &own, OF_GATEWAY, GATEWAY, Some(pod_mac(2))), mac),
            (solicitation().between(pod_mac(2), host_mac(1)), mac),
            (discovery(135, &own, &near, near_target, Some(pod_mac(1))), elsewhere),
            (discovery(135, &own, "ff02::1:ff00:3", near_target, Some(pod_mac(1))), elsewhere),
            (discovery(135, &own, &near, GATEWAY, Some(pod_mac(1))), elsewhere),
            (discovery(136, &own, &near, address, Some(pod_mac(1))), elsewhere),
            (discovery(136, &own, &far, address, Some(pod_mac(1))), elsewhere),
            (discovery(136, &own, "ff02::1", near_target, Some(pod_mac(1))), spoofed),
            (discovery(136, &gateway, "ff02::1", GATEWAY, Some(pod_mac(1))), spoofed),
            (discovery(136, &own, "ff02::1", address, Some(pod_mac(2))), mac),
            (discovery(133, &own, &far, address, None), elsewhere),
            (discovery(134, LINK_LOCAL, "ff02::1", address, None), DropReason::ForbiddenIcmp),
            (discovery(137, LINK_LOCAL, "ff02::1", address, None), DropReason::ForbiddenIcmp),
            (
                with_hop_limit(discovery(130, LINK_LOCAL, "ff02::1", address, None), 1),
                DropReason::ForbiddenIcmp,
            ),
            (with_hop_limit(discovery(143, &own, "ff02::16", address, None), 1), spoofed),
            (with_hop_limit(discovery(131, LINK_LOCAL, &far, address, None), 1), elsewhere),
            (discovery(143, LINK_LOCAL, "ff02::16", address, None), malformed),
            (with_hop_limit(solicitation(), 64), malformed),
            (coded, malformed),
            (extended, malformed),
            (solicitation().fragments(5, 16).remove(0), malformed),
            // A report may have extension headers; in fragments it may not come either (RFC 6980).
            (
                with_hop_limit(discovery(143, LINK_LOCAL, "ff02::16", address, None), 1)
                    .fragments(5, 16)
                    .remove(0),
                malformed,
            ),
        ] {
            assert_eq!(world.verdict(&packet)?, Verdict::Drop(reason), "{packet:?}");
        }
        Ok(())
    })
}

#[test]
fn neighbour_discovery_reaches_a_pod_from_its_own_node_alone() -> Result<()> {
    for (host, by_own_node) in [(0, true), (NO_HOST, false)] {
        in_both_families(host, |world| {
            let Some(address) = world.own_v6() else { return Ok(()) };
            for (kind, reason) in [
                (134, DropReason::ForbiddenIcmp),
                (137, DropReason::ForbiddenIcmp),
                (135, DropReason::NeighbourElsewhere),
                (136, DropReason::NeighbourElsewhere),
                (143, DropReason::NeighbourElsewhere),
            ] {
                let packet = discovery(kind, LINK_LOCAL, &address.to_string(), address, None);
                let verdict = world.programs.to_pod(world.interfaces[0], &packet)?.verdict;
                let expected = if by_own_node { Verdict::Pass } else { Verdict::Drop(reason) };
                assert_eq!(verdict, expected, "type {kind}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
