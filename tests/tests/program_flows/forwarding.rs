//! Delivery, forwarding, and senders that lie.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{route::kind, verdict::DropReason};
use harness::{
    packet::{Packet, Transport, flag, verify},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
        interface_mac,
    },
};

use crate::{INTO_A, INTO_B, World, in_both_families, syn, tcp, udp, with_hops};

#[test]
fn a_flow_that_nothing_touches_is_delivered_and_takes_no_conntrack_entry() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let run = world.a_sends(world.b, syn(4000, 80))?;
        assert_eq!(run.verdict, INTO_B);
        let packet = verify(&run.frame)?;
        assert_eq!((packet.destination_mac, packet.source_mac), (pod_mac(2), host_mac(2)));
        assert_eq!(world.b_sends(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.a_sends(world.outside, udp(4000, 53))?.verdict, Verdict::Pass);
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn a_packet_to_another_nodes_pod_is_forwarded_with_one_hop_less() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let run = world.a_sends(world.remote, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Forward);
        let sent = Packet::new(world.a, world.remote, syn(4000, 80)).between(pod_mac(1), host_mac(1));
        assert_eq!(verify(&run.frame)?, with_hops(sent, 63));
        Ok(())
    })
}

#[test]
fn a_packet_that_has_no_hop_left_is_left_to_the_stack_as_it_is() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for (hops, verdict) in [(0, Verdict::Pass), (1, Verdict::Pass), (2, Verdict::Forward)] {
            let sent = Packet::new(world.a, world.remote, syn(4000, 80)).between(pod_mac(1), host_mac(1));
            let sent = with_hops(sent, hops);
            let run = world.programs.from_pod(world.interfaces[0], &sent)?;
            assert_eq!(run.verdict, verdict, "{hops} hops");
            let left = if verdict == Verdict::Pass { hops } else { hops - 1 };
            assert_eq!(verify(&run.frame)?, with_hops(sent, left));
        }
        Ok(())
    })
}

#[test]
fn what_the_stack_routes_is_left_to_it_in_both_directions() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let prefix_len = if world.remote.is_ipv4() { 16 } else { 64 };
        world.programs.route_nowhere(world.remote, prefix_len, kind::STACK)?;
        let sent = Packet::new(world.a, world.remote, syn(4000, 80)).between(pod_mac(1), host_mac(1));
        let run = world.a_sends(world.remote, syn(4000, 80))?;
        assert_eq!((run.verdict, run.frame), (Verdict::Pass, sent.bytes()));
        for interface in [1, 2] {
            let index = u8::try_from(interface)?;
            let arrives = Packet::new(world.remote, world.a, syn(4000, 80));
            let arrives = arrives.between([2, 0, 0, 0, 9, 9], interface_mac(index));
            let run = world.programs.from_netdev(world.interfaces[interface], &arrives)?;
            assert_eq!((run.verdict, run.frame), (Verdict::Pass, arrives.bytes()));
        }
        Ok(())
    })
}

#[test]
fn a_packet_that_the_uplink_does_not_carry_is_left_to_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let headers = if world.remote.is_ipv4() { 28 } else { 48 };
        for (length, verdict) in [(1_500, Verdict::Forward), (1_501, Verdict::Pass)] {
            let payload = vec![7; length - headers];
            let run = world.a_sends(world.remote, Transport::udp(4000, 53, payload.clone()))?;
            assert_eq!(run.verdict, verdict, "{length}");
            // A pod takes what fits its own link, whatever the uplink is.
            assert_eq!(world.a_sends(world.b, Transport::udp(4000, 53, payload))?.verdict, INTO_B);
        }
        Ok(())
    })
}

#[test]
fn a_pod_cannot_pretend_to_be_another() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let pretend = |source: IpAddr, mac| {
            let packet = Packet::new(source, world.outside, udp(1, 2)).between(mac, host_mac(1));
            Ok::<_, anyhow::Error>(world.programs.from_pod(world.interfaces[0], &packet)?.verdict)
        };
        // Link-layer addresses are no secret: who has another pod's has not its interface.
        for mac in [pod_mac(1), pod_mac(2)] {
            assert_eq!(pretend(world.b, mac)?, Verdict::Drop(DropReason::SpoofedAddress));
        }
        assert_eq!(pretend(world.outside, pod_mac(1))?, Verdict::Drop(DropReason::SpoofedAddress));
        assert_eq!(pretend(world.a, pod_mac(2))?, Verdict::Drop(DropReason::SpoofedMac));
        assert_eq!(pretend(world.a, pod_mac(1))?, Verdict::Pass);
        Ok(())
    })
}

#[test]
fn what_the_stack_sends_to_an_address_that_is_not_the_interfaces_is_dropped() -> Result<()> {
    let to = |world: &World, address| {
        let packet = Packet::new(world.outside, address, syn(4000, 80)).between(host_mac(1), pod_mac(1));
        world.programs.to_pod(world.interfaces[0], &packet)
    };
    in_both_families(NO_HOST, |world| {
        assert_eq!(to(world, world.a)?.verdict, Verdict::Pass);
        // Nobody's, and another pod's.
        for address in [world.remote, world.b] {
            assert_eq!(to(world, address)?.verdict, Verdict::Drop(DropReason::NoSuchEndpoint));
        }
        Ok(())
    })?;
    // The pod's own node reaches it whatever the agent knows.
    in_both_families(0, |world| {
        assert_eq!(to(world, world.remote)?.verdict, Verdict::Pass);
        Ok(())
    })
}
