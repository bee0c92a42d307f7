//! ICMP errors, options, and what is no packet.
use anyhow::Result;
use dataplane_common::{
    net::proto::{TCP, UDP},
    verdict::{DropReason, Hook},
};
use harness::{
    packet::{Extension, ExtensionKind, Network, Packet, Transport, verify},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
    },
};

use crate::{CLASS, INTO_B, RULE, SET_A, SET_B, in_both_families, syn, udp};

#[test]
fn an_icmp_error_about_a_flow_passes_and_is_translated_and_another_does_not() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, 0, 0, 0)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.remote, 8080)], 0)?;
        world.a_sends(world.vip, udp(4000, 80))?;
        let (kind, code) = if world.a.is_ipv4() { (3, 4) } else { (2, 0) };
        let router = world.outside;
        let on_the_wire = Packet::new(world.a, world.remote, udp(4000, 8080));
        let error = Transport::icmp_error(kind, code, [0, 0, 5, 0], &on_the_wire, 8);
        let run = world.to_a(router, error)?;
        assert_eq!(run.verdict, Verdict::Pass);
        let packet = verify(&run.frame)?;
        assert_eq!(packet.addresses(), Some((router, world.a)));
        let Some(Transport::Icmp { data, .. }) = packet.transport() else { panic!("not ICMP") };
        let as_sent = Packet::new(world.a, world.vip, udp(4000, 80)).ip_bytes().expect("an IP packet");
        let addresses = if world.a.is_ipv4() { 12..20 } else { 8..40 };
        let ports = addresses.end..addresses.end + 4;
        assert_eq!(data[addresses.clone()], as_sent[addresses]);
        assert_eq!(data[ports.clone()], as_sent[ports]);

        let other = Packet::new(world.a, world.remote, udp(4999, 8080));
        let run = world.to_a(router, Transport::icmp_error(kind, code, [0, 0, 5, 0], &other, 8))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::UnrelatedIcmpError));
        Ok(())
    })
}

#[test]
fn what_is_not_a_whole_packet_is_dropped_with_a_reason() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let packet = Packet::new(world.a, world.b, syn(4000, 80)).between(pod_mac(1), host_mac(1));
        let frame = packet.bytes();
        let header = if world.a.is_ipv4() { 34 } else { 54 };
        for len in [header, header + 3, header + 13] {
            let run = world.programs.run(Hook::FromPod, world.interfaces[0], &frame[..len])?;
            assert_eq!(run.verdict, Verdict::Drop(DropReason::Truncated), "{len} bytes");
        }
        let mut frame = packet.bytes();
        frame[14] = if world.a.is_ipv4() { 0x44 } else { 0x50 };
        let run = world.programs.run(Hook::FromPod, world.interfaces[0], &frame)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::InvalidHeader));
        Ok(())
    })
}

#[test]
fn a_pod_cannot_advertise_routes_or_speak_other_protocols() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let (kind, name) = if world.a.is_ipv4() { (5, "redirect") } else { (134, "router advertisement") };
        let run = world
            .a_sends(world.outside, Transport::Icmp { kind, code: 0, rest: [0; 4], data: vec![0; 28] })?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::ForbiddenIcmp), "{name}");
        let mut tagged = Packet::new(world.a, world.b, syn(1, 2)).between(pod_mac(1), host_mac(1));
        tagged.vlans = vec![7];
        let run = world.programs.from_pod(world.interfaces[0], &tagged)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::UnsupportedProtocol));
        Ok(())
    })
}

#[test]
fn ports_are_found_behind_options_and_extension_headers() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        let verdict = |port, extensions: usize| {
            let mut packet = Packet::new(world.a, world.b, syn(4000, port)).between(pod_mac(1), host_mac(1));
            match &mut packet.network {
                Network::V4(ip) => ip.options = vec![1; 4 * extensions],
                Network::V6(ip) => {
                    let header =
                        Extension { kind: ExtensionKind::DestinationOptions, body: vec![1, 4, 0, 0, 0, 0] };
                    ip.extensions = vec![header; extensions];
                }
                Network::Other { .. } => unreachable!("an IP packet"),
            }
            Ok::<_, anyhow::Error>(world.programs.from_pod(world.interfaces[0], &packet)?.verdict)
        };
        for extensions in 0..=6 {
            assert_eq!(verdict(80, extensions)?, INTO_B, "{extensions} headers");
            assert_eq!(
                verdict(81, extensions)?,
                Verdict::Drop(DropReason::PolicyIngress),
                "{extensions} headers"
            );
        }
        if world.a.is_ipv6() {
            assert_eq!(verdict(80, 7)?, Verdict::Drop(DropReason::ExtensionHeaders));
        }
        Ok(())
    })
}
