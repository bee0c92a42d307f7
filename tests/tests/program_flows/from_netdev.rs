//! What comes in by an uplink: past the stack from pods of other nodes to pods of this one, and nothing else.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{net::proto, policy::SET_DENY_ALL, verdict::DropReason};
use harness::{
    packet::{Packet, Transport, flag, verify},
    program::{
        NO_HOST, Run, Verdict,
        fixture::{host_mac, pod_mac},
        interface_mac,
    },
};

use crate::{CLASS, INTO_A, RULE, SET_A, World, ends, in_both_families, syn, tcp, udp, with_hops};

/// The uplink's index among the interfaces, and the router there.
const UPLINK: u8 = 2;
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

pub(crate) fn packet(from: IpAddr, to: IpAddr, transport: Transport) -> Packet {
    Packet::new(from, to, transport).between(ROUTER_MAC, interface_mac(UPLINK))
}

pub(crate) fn arrives(world: &World, packet: &Packet) -> Result<Run> {
    world.programs.from_netdev(world.interfaces[usize::from(UPLINK)], packet)
}

#[test]
fn a_packet_of_another_nodes_pod_is_delivered_with_one_hop_less() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for transport in [syn(4000, 80), udp(4000, 53)] {
            let sent = with_hops(packet(world.remote, world.a, transport), 9);
            let run = arrives(world, &sent)?;
            assert_eq!(run.verdict, INTO_A);
            assert_eq!(verify(&run.frame)?, with_hops(sent, 8).between(host_mac(1), pod_mac(1)));
        }
        assert_eq!(world.flows()?, (0, 0), "nothing touches it, so nothing is tracked");
        Ok(())
    })
}

#[test]
fn what_is_not_from_pod_to_pod_is_left_to_the_stack_as_it_is() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let others_mac = packet(world.remote, world.a, udp(1, 2)).between(ROUTER_MAC, [2, 0, 0, 0, 9, 8]);
        let mut tagged = packet(world.remote, world.a, udp(1, 2));
        tagged.vlans = vec![42];
        // Neighbour discovery and what only routers send: to_pod drops it.
        let kinds: &[u8] = if world.a.is_ipv4() { &[5, 9] } else { &[133, 134, 135, 136, 137] };
        let of_links = kinds.iter().map(|kind| {
            let message = Transport::Icmp { kind: *kind, code: 0, rest: [0; 4], data: vec![0; 16] };
            with_hops(packet(world.remote, world.a, message), 255)
        });
        for passed in of_links.chain([
            packet(world.outside, world.a, syn(4000, 80)),
            packet(world.remote, world.outside, udp(1, 2)),
            packet(world.remote, world.remote, udp(1, 2)),
            packet(world.remote, world.vip, udp(1, 2)),
            // The stack answers that it has expired.
            with_hops(packet(world.remote, world.a, udp(1, 2)), 1),
            with_hops(packet(world.remote, world.a, udp(1, 2)), 0),
            others_mac,
            tagged,
        ]) {
            let run = arrives(world, &passed)?;
            assert_eq!(run.verdict, Verdict::Pass, "{passed}");
            assert_eq!(run.frame, passed.bytes(), "{passed}");
        }
        Ok(())
    })
}

#[test]
fn a_packet_that_claims_an_address_which_it_cannot_have_is_dropped() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for local in [world.a, world.b] {
            let run = arrives(world, &packet(local, world.a, udp(1, 2)))?;
            assert_eq!(run.verdict, Verdict::Drop(DropReason::SpoofedFromOutside));
        }
        // The route to the other node's pods is by another interface than this.
        let elsewhere = Packet::new(world.remote, world.a, udp(1, 2)).between(ROUTER_MAC, interface_mac(1));
        let run = world.programs.from_netdev(world.interfaces[1], &elsewhere)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::WrongUplink));
        Ok(())
    })
}

#[test]
fn ingress_policy_judges_what_comes_past_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, SET_DENY_ALL, 0, 0)?;
        let denied = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(arrives(world, &packet(world.remote, world.a, syn(4000, 80)))?.verdict, denied);
        world.programs.class(world.remote, CLASS)?;
        world.programs.allow(SET_A, CLASS, proto::TCP, 80, RULE)?;
        assert_eq!(arrives(world, &packet(world.remote, world.a, syn(4000, 81)))?.verdict, denied);
        assert_eq!(arrives(world, &packet(world.remote, world.a, syn(4000, 80)))?.verdict, INTO_A);
        // The flow is tracked as one that came by the stack is: its answer leaves the pod, whose egress is denied.
        let answer = world.a_sends(world.remote, tcp(80, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(answer.verdict, Verdict::Forward);
        assert_eq!(arrives(world, &packet(world.remote, world.a, tcp(4000, 80, flag::ACK)))?.verdict, INTO_A);
        assert_eq!(world.established()?.len(), 1);
        Ok(())
    })
}

#[test]
fn an_answer_from_a_service_on_another_node_is_translated_back() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, proto::TCP), 0, &[(world.remote, 8080)], 0)?;
        assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, Verdict::Forward);
        let run = arrives(world, &packet(world.remote, world.a, tcp(8080, 4000, flag::SYN | flag::ACK)))?;
        assert_eq!(run.verdict, INTO_A);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}

#[test]
fn an_error_of_a_router_about_a_packet_to_another_nodes_pod_passes_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let (kind, code) = if world.a.is_ipv4() { (3, 4) } else { (2, 0) };
        let error = |to| {
            let quoted = Packet::new(world.a, to, udp(4000, 8080));
            packet(world.outside, world.a, Transport::icmp_error(kind, code, [0, 0, 5, 0], &quoted, 8))
        };
        assert_eq!(arrives(world, &error(world.remote))?.verdict, INTO_A);
        assert_eq!(
            arrives(world, &error(world.outside))?.verdict,
            Verdict::Pass,
            "its flow crosses the stack"
        );
        Ok(())
    })
}

#[test]
fn fragments_from_another_node_follow_their_first_past_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, 0, 0, 0)?;
        world.programs.class(world.remote, CLASS)?;
        world.programs.allow(SET_A, CLASS, proto::UDP, 80, RULE)?;
        for (id, port, verdict) in [(5, 80, INTO_A), (6, 81, Verdict::Drop(DropReason::PolicyIngress))] {
            let whole = packet(world.remote, world.a, Transport::udp(4000, port, vec![7; 3000]));
            for piece in whole.fragments(id, 1400) {
                assert_eq!(arrives(world, &piece)?.verdict, verdict, "{piece}");
            }
        }
        let early = packet(world.remote, world.a, Transport::udp(4000, 80, vec![7; 3000])).fragments(7, 1400);
        assert_eq!(arrives(world, &early[1])?.verdict, Verdict::Held);
        Ok(())
    })
}
