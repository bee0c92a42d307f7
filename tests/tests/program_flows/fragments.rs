//! Fragments in any order, and what hides behind them.
use std::process::Command;

use anyhow::{Result, ensure};
use dataplane_common::{
    fragment::PLACES,
    maps::MapId,
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    verdict::{DropReason, Hook},
};
use harness::{
    packet::{Extension, ExtensionKind, Network, Packet, Payload, Transport, flag},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
    },
};

use crate::{CLASS, INTO_A, INTO_B, RULE, SET_A, SET_B, World, in_both_families, tcp, udp};

#[test]
fn fragments_follow_their_first_and_orphans_of_policed_pods_are_held() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        let whole = Packet::new(world.a, world.vip, Transport::udp(4000, 80, vec![7; 3000]))
            .between(pod_mac(1), host_mac(1));
        let pieces = whole.fragments(77, 1400);
        assert!(pieces.len() >= 3);
        for piece in &pieces {
            let run = world.programs.from_pod(world.interfaces[0], piece)?;
            assert_eq!(run.verdict, INTO_B, "{piece:?}");
            let out = harness::packet::parse(&run.frame)?;
            assert_eq!(out.addresses(), Some((world.a, world.b)));
        }
        world.isolate(0, SET_DENY_ALL, 0, 0)?;
        let orphan = whole.fragments(78, 1400).remove(1);
        let run = world.programs.from_pod(world.interfaces[0], &orphan)?;
        assert_eq!(run.verdict, Verdict::Held);
        Ok(())
    })
}

#[test]
fn a_first_fragment_that_another_pod_forged_decides_nothing() -> Result<()> {
    const ID: u32 = 79;
    in_both_families(NO_HOST, |world| {
        world.isolate(0, SET_A, 0, 0)?;
        world.programs.class(world.remote, CLASS)?;
        world.programs.allow(SET_A, CLASS, UDP, 80, RULE)?;
        let pieces = |id, port| {
            Packet::new(world.a, world.remote, Transport::udp(4000, port, vec![7; 3000]))
                .between(pod_mac(1), host_mac(1))
                .fragments(id, 1400)
        };
        let a_sends = |piece: &Packet| {
            Ok::<_, anyhow::Error>(world.programs.from_pod(world.interfaces[0], piece)?.verdict)
        };
        let b_forges = |id, port| {
            let forged = pieces(id, port).remove(0).between(pod_mac(2), host_mac(2));
            let run = world.programs.from_pod(world.interfaces[1], &forged)?;
            assert_eq!(run.verdict, Verdict::Drop(DropReason::SpoofedAddress));
            Ok::<_, anyhow::Error>(())
        };

        // It does not stand in for one that is missing, nor for one that was denied.
        b_forges(ID, 80)?;
        assert_eq!(a_sends(&pieces(ID, 80)[1])?, Verdict::Held);
        let denied = pieces(ID + 1, 81);
        assert_eq!(a_sends(&denied[0])?, Verdict::Drop(DropReason::PolicyEgress));
        b_forges(ID + 1, 80)?;
        assert_eq!(a_sends(&denied[1])?, Verdict::Drop(DropReason::PolicyEgress));
        // Nor does it take an allowed datagram from its sender.
        let allowed = pieces(ID + 2, 80);
        assert_eq!(a_sends(&allowed[0])?, Verdict::Forward);
        b_forges(ID + 2, 81)?;
        for later in &allowed[1..] {
            assert_eq!(a_sends(later)?, Verdict::Forward);
        }
        Ok(())
    })
}

/// Lets everybody reach one UDP port of `b`.
fn open_one_port(world: &World) -> Result<()> {
    world.isolate(0, 0, SET_B, 0)?;
    world.programs.class(world.a, CLASS)?;
    world.programs.allow(SET_B, CLASS, UDP, 80, RULE)
}

/// What goes through the hook again comes in by the interface, which is to be up.
pub(crate) fn up() -> Result<()> {
    for name in ["h0", "h1"] {
        let up = Command::new("ip").args(["link", "set", name, "up"]).status()?;
        ensure!(up.success(), "ip link set {name} up: {up}");
    }
    Ok(())
}

/// The fragments of a datagram from `a` to `b`.
fn pieces(world: &World, id: u32, port: u16) -> Vec<Packet> {
    Packet::new(world.a, world.b, Transport::udp(4000, port, vec![7; 3000]))
        .between(pod_mac(1), host_mac(1))
        .fragments(id, 1400)
}

/// What the fragments of a datagram come to when they arrive in this order.
fn in_order(world: &World, id: u32, port: u16, order: &[usize]) -> Result<Vec<Verdict>> {
    let pieces = pieces(world, id, port);
    order
        .iter()
        .map(|piece| Ok(world.programs.from_pod(world.interfaces[0], &pieces[*piece])?.verdict))
        .collect()
}

#[test]
fn what_comes_early_is_held_and_a_pod_that_floods_takes_no_place_from_another() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        open_one_port(world)?;
        up()?;
        // The first one goes once more, before those that waited; without any it goes at once.
        assert_eq!(in_order(world, 1, 80, &[2, 1, 0])?, [Verdict::Held; 3]);
        assert_eq!(in_order(world, 2, 80, &[0, 2, 1])?, [INTO_B; 3]);
        // `b` waits for the first fragment of its own.
        let of_b = Packet::new(world.b, world.vip, Transport::udp(4000, 53, vec![7; 3000]))
            .between(pod_mac(2), host_mac(2))
            .fragments(3, 1400);
        let b_sends = |piece: usize| {
            Ok::<_, anyhow::Error>(world.programs.from_pod(world.interfaces[1], &of_b[piece])?.verdict)
        };
        assert_eq!(b_sends(1)?, Verdict::Held);
        let flood: Vec<Verdict> =
            (100..164).map(|id| Ok(in_order(world, id, 80, &[1])?[0])).collect::<Result<_>>()?;
        // Each that waits in vain is counted when its place is taken.
        let (held, lost) = flood.split_at(PLACES.into());
        assert!(held.iter().all(|verdict| *verdict == Verdict::Held), "{held:?}");
        let without_first = Verdict::Drop(DropReason::FragmentWithoutFirst);
        assert!(lost.iter().all(|verdict| *verdict == without_first), "{lost:?}");
        assert!(world.programs.count(MapId::EARLY_FRAGMENTS)? <= usize::from(PLACES) + 1);
        assert_eq!(b_sends(0)?, Verdict::Held, "the flood of one pod took the place of another");
        // Another datagram's first fragment has none of them go: they wait for their own.
        assert_eq!(in_order(world, 200, 80, &[0])?, [INTO_B]);
        // Of the flood, the last are there and the first are not.
        assert_eq!(in_order(world, 163, 80, &[0])?, [Verdict::Held]);
        assert_eq!(in_order(world, 100, 80, &[0])?, [INTO_B]);
        Ok(())
    })
}

#[test]
fn a_second_first_fragment_is_judged_and_so_is_what_follows_it() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        open_one_port(world)?;
        up()?;
        let denied = Verdict::Drop(DropReason::PolicyIngress);
        let sends = |port, piece| in_order(world, 5, port, &[piece]);
        // Over one that passed: what is left of the datagram does not pass with the first one's ports.
        assert_eq!(sends(80, 0)?, [INTO_B]);
        assert_eq!(sends(81, 0)?, [denied]);
        assert_eq!(sends(81, 1)?, [denied]);
        // Over one that was denied: the receiver has only what passed.
        assert_eq!(sends(80, 0)?, [INTO_B]);
        assert_eq!(sends(80, 1)?, [INTO_B]);
        // Those that wait are judged by the ports of the one that comes.
        assert_eq!(in_order(world, 6, 80, &[1])?, [Verdict::Held]);
        assert_eq!(in_order(world, 6, 81, &[0])?, [Verdict::Held]);
        assert_eq!(in_order(world, 6, 81, &[0, 1])?, [denied; 2]);
        Ok(())
    })
}

#[test]
fn fragments_of_a_service_are_translated_in_both_directions_whenever_they_come() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        up()?;
        assert_eq!(world.a_sends(world.vip, udp(4000, 80))?.verdict, INTO_B);
        let there = Packet::new(world.a, world.vip, Transport::udp(4000, 80, vec![7; 3000]))
            .between(pod_mac(1), host_mac(1));
        let back = Packet::new(world.b, world.a, Transport::udp(8080, 4000, vec![7; 3000]))
            .between(pod_mac(2), host_mac(2));
        for (whole, interface, into, ends) in [
            (there, world.interfaces[0], INTO_B, (world.a, world.b)),
            (back, world.interfaces[1], INTO_A, (world.vip, world.a)),
        ] {
            let pieces = whole.fragments(77, 1400);
            for early in [2, 1, 0] {
                let run = world.programs.from_pod(interface, &pieces[early])?;
                assert_eq!(run.verdict, Verdict::Held, "{}", pieces[early]);
            }
            // As they come round again.
            for piece in &pieces {
                let run = world.programs.from_pod(interface, piece)?;
                assert_eq!(run.verdict, into, "{piece}");
                assert_eq!(harness::packet::parse(&run.frame)?.addresses(), Some(ends), "{piece}");
            }
        }
        Ok(())
    })
}

#[test]
fn fragments_that_hide_or_overlap_the_header_are_dropped() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let data = |transport| Packet::new(world.a, world.b, transport).between(pod_mac(1), host_mac(1));
        let sends = |packet: &Packet| {
            // As a link pads it.
            let mut frame = packet.bytes();
            frame.resize(frame.len().max(120), 0x10);
            Ok::<_, anyhow::Error>(world.programs.run(Hook::FromPod, world.interfaces[0], &frame)?.verdict)
        };
        let overlap = Verdict::Drop(DropReason::FragmentOverlap);
        for (id, transport, piece) in [(7, tcp(4000, 80, flag::ACK), 8), (8, tcp(4000, 80, flag::SYN), 16)] {
            let tiny = data(transport).fragments(id, piece);
            assert_eq!(sends(&tiny[0])?, overlap, "a first fragment of {piece} bytes");
        }
        // A whole header, and a later fragment that writes over its flags.
        let mut bytes = tcp(4000, 80, flag::ACK);
        if let Transport::Tcp { data, .. } = &mut bytes {
            *data = vec![7; 100];
        }
        let honest = data(bytes.clone()).fragments(9, 24);
        assert_eq!(sends(&honest[0])?, INTO_B);
        assert_eq!(sends(&honest[1])?, INTO_B);
        for forged in [1, 2] {
            assert_eq!(sends(&data(bytes.clone()).fragments(9, 8)[forged])?, overlap);
        }
        Ok(())
    })
}

#[test]
fn later_fragments_are_known_whatever_next_header_they_name() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        if world.a.is_ipv4() {
            return Ok(());
        }
        open_one_port(world)?;
        let claiming_tcp = |mut piece: Packet| {
            if let Payload::Fragment { proto, .. } = payload(&mut piece) {
                *proto = TCP;
            }
            piece
        };
        for (id, port, verdict) in [(5, 80, INTO_B), (6, 81, Verdict::Drop(DropReason::PolicyIngress))] {
            let pieces = pieces(world, id, port);
            assert_eq!(world.programs.from_pod(world.interfaces[0], &pieces[0])?.verdict, verdict);
            let later = claiming_tcp(pieces[1].clone());
            assert_eq!(world.programs.from_pod(world.interfaces[0], &later)?.verdict, verdict);
        }
        Ok(())
    })
}

fn payload(packet: &mut Packet) -> &mut Payload {
    match &mut packet.network {
        Network::V4(ip) => &mut ip.payload,
        Network::V6(ip) => &mut ip.payload,
        Network::Other { .. } => unreachable!("fragments are IP"),
    }
}

/// Puts headers into the part that is cut into fragments.
fn behind_fragment_header(mut piece: Packet, headers: &[(u8, [u8; 8])]) -> Packet {
    if let Payload::Fragment { proto, bytes, .. } = payload(&mut piece) {
        for (kind, header) in headers.iter().rev() {
            let mut header = *header;
            header[0] = *proto;
            *proto = *kind;
            bytes.splice(..0, header);
        }
    }
    piece
}

#[test]
fn headers_behind_the_fragment_header_hide_nothing() -> Result<()> {
    const DESTINATION_OPTIONS: u8 = 60;
    const FRAGMENT: u8 = 44;
    const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    in_both_families(NO_HOST, |world| {
        if world.a.is_ipv4() {
            return Ok(());
        }
        open_one_port(world)?;
        let sends = |packet: &Packet| {
            let mut frame = packet.bytes();
            frame.resize(frame.len().max(160), 0x10);
            Ok::<_, anyhow::Error>(world.programs.run(Hook::FromPod, world.interfaces[0], &frame)?.verdict)
        };
        // The ports are found behind options, and later fragments follow.
        for (id, port, verdict) in [(5, 80, INTO_B), (6, 81, Verdict::Drop(DropReason::PolicyIngress))] {
            let mut pieces = pieces(world, id, port);
            let first = behind_fragment_header(pieces.remove(0), &[(DESTINATION_OPTIONS, PADDING)]);
            assert_eq!(sends(&first)?, verdict);
            assert_eq!(sends(&pieces[0])?, verdict);
        }
        // The chain of headers, or the ports at its end, come only with the second fragment (RFC 7112).
        let overlap = Verdict::Drop(DropReason::FragmentOverlap);
        for (id, options) in [
            (7, vec![(DESTINATION_OPTIONS, PADDING)]),
            (8, vec![(DESTINATION_OPTIONS, [0, 3, 1, 28, 0, 0, 0, 0])]),
        ] {
            let mut first = behind_fragment_header(pieces(world, id, 80).remove(0), &options);
            if let Payload::Fragment { bytes, .. } = payload(&mut first) {
                bytes.truncate(8);
            }
            assert_eq!(sends(&first)?, overlap);
        }
        // A fragment of a fragment.
        let nested = behind_fragment_header(pieces(world, 9, 80).remove(0), &[(FRAGMENT, [0; 8])]);
        assert_eq!(sends(&nested)?, Verdict::Drop(DropReason::ExtensionHeaders));
        // An extension header in front of it is none of the datagram.
        let mut behind = pieces(world, 10, 80).remove(0);
        if let Network::V6(ip) = &mut behind.network {
            ip.extensions =
                vec![Extension { kind: ExtensionKind::DestinationOptions, body: vec![1, 4, 0, 0, 0, 0] }];
        }
        assert_eq!(sends(&behind)?, INTO_B);
        Ok(())
    })
}
