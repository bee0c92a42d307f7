//! One behaviour of the tc programs at a time, in both families: packet in, verdict and packet out.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtState},
    maps::MapId,
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    service::flag::DROP_WHEN_EMPTY,
    verdict::{DropReason, Hook},
};
use millrace_tests::{
    packet::{Extension, ExtensionKind, Network, Packet, Transport, flag, verify},
    program::{
        NO_HOST, Programs, Run, Verdict,
        fixture::{host_mac, pod_mac},
        in_private_netns,
    },
};
use zerocopy::FromBytes as _;

/// Two local pods, a remote one, a virtual address and the outside world, in one family.
struct World<'a> {
    programs: &'a Programs,
    interfaces: &'a [u32],
    a: IpAddr,
    b: IpAddr,
    remote: IpAddr,
    vip: IpAddr,
    outside: IpAddr,
}

const SET_A: u32 = 11;
const SET_B: u32 = 12;
const CLASS: u32 = 21;
const RULE: u32 = 31;

/// Runs a test in both families, each time with empty maps.
fn in_both_families(host: u32, test: impl Fn(&World) -> Result<()> + Sync) -> Result<()> {
    in_private_netns(3, |interfaces| {
        for (a, b, remote, vip, outside) in [
            ("10.1.0.2", "10.1.0.3", "10.2.0.2", "10.96.0.10", "192.0.2.9"),
            ("fd01::2", "fd01::3", "fd02::2", "fd96::10", "2001:db8::9"),
        ] {
            let programs = Programs::load(host)?;
            let world = World {
                programs: &programs,
                interfaces,
                a: a.parse()?,
                b: b.parse()?,
                remote: remote.parse()?,
                vip: vip.parse()?,
                outside: outside.parse()?,
            };
            world.isolate(0, 0, 0, 0)?;
            let next_hop = if world.remote.is_ipv4() { "172.16.0.2" } else { "fd16::2" };
            let prefix_len = if world.remote.is_ipv4() { 16 } else { 64 };
            programs.route(world.remote, prefix_len, interfaces[2], next_hop.parse()?)?;
            test(&world)?;
        }
        Ok(())
    })
}

impl World<'_> {
    /// Sets the policy sets of the two pods: ingress and egress of `a`, then of `b`.
    fn isolate(&self, a_in: u32, a_out: u32, b_in: u32, b_out: u32) -> Result<()> {
        self.programs.endpoint(1, self.a, self.interfaces[0], a_in, a_out)?;
        self.programs.endpoint(2, self.b, self.interfaces[1], b_in, b_out)
    }

    fn from_a(&self, to: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(self.a, to, transport).between(pod_mac(1), host_mac(1));
        self.programs.from_pod(self.interfaces[0], &packet)
    }

    fn from_b(&self, to: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(self.b, to, transport).between(pod_mac(2), host_mac(2));
        self.programs.from_pod(self.interfaces[1], &packet)
    }

    fn to_a(&self, from: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(from, self.a, transport).between(host_mac(1), pod_mac(1));
        self.programs.to_pod(self.interfaces[0], &packet)
    }

    /// Flows tracked in this family: half-open and established.
    fn flows(&self) -> Result<(usize, usize)> {
        let (new, established) = if self.a.is_ipv4() {
            (MapId::CT_NEW_V4, MapId::CT_EST_V4)
        } else {
            (MapId::CT_NEW_V6, MapId::CT_EST_V6)
        };
        Ok((self.programs.count(new)?, self.programs.count(established)?))
    }

    /// States of the established flows.
    fn established(&self) -> Result<Vec<CtState>> {
        if self.a.is_ipv4() {
            let entries = self.programs.map(MapId::CT_EST_V4).dump()?;
            return Ok(entries
                .iter()
                .filter_map(|(_, v)| CtEntryV4::read_from_bytes(v).ok())
                .map(|e| e.state)
                .collect());
        }
        let entries = self.programs.map(MapId::CT_EST_V6).dump()?;
        Ok(entries.iter().filter_map(|(_, v)| CtEntryV6::read_from_bytes(v).ok()).map(|e| e.state).collect())
    }
}

const INTO_A: Verdict = Verdict::Deliver(pod_mac(1));
const INTO_B: Verdict = Verdict::Deliver(pod_mac(2));

fn syn(source: u16, destination: u16) -> Transport {
    Transport::tcp(source, destination, flag::SYN)
}

fn tcp(source: u16, destination: u16, flags: u8) -> Transport {
    Transport::tcp(source, destination, flags)
}

fn udp(source: u16, destination: u16) -> Transport {
    Transport::udp(source, destination, b"millrace".to_vec())
}

/// The ends of a packet whose checksums are right.
fn ends(run: &Run) -> Result<(IpAddr, u16, IpAddr, u16)> {
    let packet = verify(&run.frame)?;
    let (source, destination) = packet.addresses().expect("an IP packet");
    let (source_port, destination_port) =
        packet.transport().and_then(Transport::ports).expect("a packet with ports");
    Ok((source, source_port, destination, destination_port))
}

#[test]
fn a_flow_that_nothing_touches_is_delivered_and_takes_no_conntrack_entry() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let run = world.from_a(world.b, syn(4000, 80))?;
        assert_eq!(run.verdict, INTO_B);
        let packet = verify(&run.frame)?;
        assert_eq!((packet.destination_mac, packet.source_mac), (pod_mac(2), host_mac(2)));
        assert_eq!(world.from_b(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.from_a(world.outside, udp(4000, 53))?.verdict, Verdict::Pass);
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn a_packet_to_another_nodes_pod_is_forwarded_with_one_hop_less() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let run = world.from_a(world.remote, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Forward);
        let mut sent = Packet::new(world.a, world.remote, syn(4000, 80)).between(pod_mac(1), host_mac(1));
        match &mut sent.network {
            Network::V4(ip) => ip.ttl -= 1,
            Network::V6(ip) => ip.hop_limit -= 1,
            Network::Other { .. } => unreachable!("an IP packet"),
        }
        assert_eq!(verify(&run.frame)?, sent);
        Ok(())
    })
}

#[test]
fn a_service_is_translated_there_and_back_with_right_checksums() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for proto in [TCP, UDP] {
            world.programs.frontend((world.vip, 80, proto), 4, &[(world.b, 8080)], 0)?;
            let (request, answer) = match proto {
                TCP => (syn(4000, 80), tcp(8080, 4000, flag::SYN | flag::ACK)),
                _ => (udp(4000, 80), udp(8080, 4000)),
            };
            let run = world.from_a(world.vip, request)?;
            assert_eq!(run.verdict, INTO_B);
            assert_eq!(ends(&run)?, (world.a, 4000, world.b, 8080));
            let run = world.from_b(world.a, answer)?;
            assert_eq!(run.verdict, INTO_A);
            assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        }
        Ok(())
    })
}

#[test]
fn a_translated_flow_to_a_remote_backend_comes_back_through_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.remote, 8080)], 0)?;
        let run = world.from_a(world.vip, udp(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Forward);
        assert_eq!(ends(&run)?, (world.a, 4000, world.remote, 8080));
        let run = world.to_a(world.remote, udp(8080, 4000))?;
        assert_eq!(run.verdict, Verdict::Pass);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}

#[test]
fn a_flow_keeps_its_backend_when_the_service_changes() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        assert_eq!(world.from_a(world.vip, syn(4000, 80))?.verdict, INTO_B);
        world.programs.frontend((world.vip, 80, TCP), 8, &[(world.remote, 8080)], 0)?;
        assert_eq!(world.from_a(world.vip, tcp(4000, 80, flag::ACK))?.verdict, INTO_B);
        assert_eq!(world.from_a(world.vip, syn(4001, 80))?.verdict, Verdict::Forward);
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_a_service() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.a, 8080)], 0)?;
        let run = world.from_a(world.vip, udp(4000, 80))?;
        assert_eq!(run.verdict, INTO_A);
        let (source, source_port, destination, _) = ends(&run)?;
        assert_eq!((source_port, destination), (4000, world.a));
        assert_ne!(source, world.a, "the answer would not leave the pod");
        let run = world.from_a(source, udp(8080, 4000))?;
        assert_eq!(run.verdict, INTO_A);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[], 0)?;
        let run = world.from_a(world.vip, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Reject);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        let packet = verify(&run.frame)?;
        assert_eq!((packet.destination_mac, packet.source_mac), (pod_mac(1), host_mac(1)));
        let Some(Transport::Tcp { flags, acknowledgement, .. }) = packet.transport() else {
            panic!("not TCP: {packet:?}");
        };
        assert_eq!((*flags, *acknowledgement), (flag::RST | flag::ACK, 1));

        world.programs.frontend((world.vip, 53, UDP), 0, &[], 0)?;
        let run = world.from_a(world.vip, udp(4000, 53))?;
        assert_eq!(run.verdict, Verdict::Reject);
        let packet = verify(&run.frame)?;
        assert_eq!(packet.addresses(), Some((world.vip, world.a)));
        let expected = if world.a.is_ipv4() { (3, 3) } else { (1, 4) };
        let Some(Transport::Icmp { kind, code, data, .. }) = packet.transport() else {
            panic!("not ICMP: {packet:?}");
        };
        assert_eq!((*kind, *code), expected);
        let about = Packet::new(world.a, world.vip, udp(4000, 53)).ip_bytes().expect("an IP packet");
        assert_eq!(data[..], about[..data.len()]);
        Ok(())
    })
}

#[test]
fn a_service_with_backends_on_other_nodes_only_drops_when_its_policy_is_local() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[], DROP_WHEN_EMPTY)?;
        let run = world.from_a(world.vip, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::NoLocalBackend));
        Ok(())
    })
}

#[test]
fn two_flows_whose_answers_would_look_alike_get_different_ports() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        world.programs.frontend((world.vip, 81, UDP), 0, &[(world.b, 8080)], 0)?;
        let first = world.from_a(world.vip, udp(4000, 80))?;
        let second = world.from_a(world.vip, udp(4000, 81))?;
        assert_eq!(ends(&first)?, (world.a, 4000, world.b, 8080));
        let (_, port, ..) = ends(&second)?;
        assert_ne!(port, 4000);
        let answer = world.from_b(world.a, udp(8080, port))?;
        assert_eq!(ends(&answer)?, (world.vip, 81, world.a, 4000));
        let answer = world.from_b(world.a, udp(8080, 4000))?;
        assert_eq!(ends(&answer)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}

#[test]
fn policy_judges_the_backend_and_answers_need_no_rule() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, SET_B)?;
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.programs.allow(SET_B, CLASS, TCP, 8080, RULE)?;
        assert_eq!(world.from_a(world.vip, syn(4000, 80))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
        world.programs.class(world.a, CLASS)?;
        assert_eq!(world.from_a(world.vip, syn(4000, 80))?.verdict, INTO_B);
        assert_eq!(world.from_b(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.from_b(world.a, syn(4000, 80))?.verdict, Verdict::Drop(DropReason::PolicyEgress));
        assert_eq!(world.from_a(world.b, syn(4001, 80))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
        Ok(())
    })
}

#[test]
fn a_flow_is_established_by_its_third_packet_and_leaves_when_it_ends() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        world.from_a(world.b, syn(4000, 80))?;
        world.from_b(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(world.flows()?, (1, 0), "a SYN that was answered is not established");
        world.from_a(world.b, tcp(4000, 80, flag::ACK))?;
        assert_eq!(world.flows()?, (0, 1));
        assert_eq!(world.established()?[0].ingress_rule, RULE);
        world.from_a(world.b, tcp(4000, 80, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (0, 1), "half closed");
        world.from_b(world.a, tcp(80, 4000, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (1, 0));
        assert_eq!(world.from_a(world.b, tcp(4000, 80, flag::ACK))?.verdict, INTO_B, "the last ACK passes");
        Ok(())
    })
}

#[test]
fn both_halves_of_a_translated_flow_are_promoted_and_closed_together() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.from_a(world.vip, syn(4000, 80))?;
        world.from_b(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(world.flows()?, (2, 0));
        world.from_a(world.vip, tcp(4000, 80, flag::ACK))?;
        assert_eq!(world.flows()?, (0, 2));
        world.from_b(world.a, tcp(8080, 4000, flag::RST))?;
        assert_eq!(world.flows()?, (2, 0));
        Ok(())
    })
}

#[test]
fn a_syn_over_a_closed_flow_opens_a_new_one_and_chooses_again() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.from_a(world.vip, syn(4000, 80))?;
        world.programs.frontend((world.vip, 80, TCP), 8, &[(world.remote, 8080)], 0)?;
        assert_eq!(
            world.from_a(world.vip, syn(4000, 80))?.verdict,
            INTO_B,
            "a repeated SYN keeps its backend"
        );
        world.from_b(world.a, tcp(8080, 4000, flag::RST))?;
        assert_eq!(world.from_a(world.vip, syn(4000, 80))?.verdict, Verdict::Forward);
        Ok(())
    })
}

#[test]
fn a_revoked_flow_is_cut_at_the_next_epoch_and_an_allowed_one_goes_on() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        world.programs.allow(SET_B, CLASS, TCP, 81, RULE)?;
        for port in [80, 81] {
            world.from_a(world.b, syn(4000, port))?;
            world.from_b(world.a, tcp(port, 4000, flag::SYN | flag::ACK))?;
            world.from_a(world.b, tcp(4000, port, flag::ACK))?;
        }
        world.programs.disallow(SET_B, CLASS, TCP, 80)?;
        assert_eq!(
            world.from_a(world.b, tcp(4000, 80, flag::ACK))?.verdict,
            INTO_B,
            "not judged before the epoch"
        );
        world.programs.set_epoch(1)?;
        let cut = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(world.from_b(world.a, tcp(80, 4000, flag::ACK))?.verdict, cut, "an answer is judged, too");
        assert_eq!(world.from_a(world.b, tcp(4000, 80, flag::ACK))?.verdict, cut);
        assert_eq!(world.from_b(world.a, tcp(81, 4000, flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.from_a(world.b, tcp(4000, 81, flag::ACK))?.verdict, INTO_B);
        Ok(())
    })
}

#[test]
fn a_translated_flow_that_is_revoked_is_cut_from_both_sides() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, UDP, 8080, RULE)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        assert_eq!(world.from_a(world.vip, udp(4000, 80))?.verdict, INTO_B);
        world.programs.set_epoch(1)?;
        assert_eq!(world.from_b(world.a, udp(8080, 4000))?.verdict, INTO_A, "still allowed");
        world.programs.disallow(SET_B, CLASS, UDP, 8080)?;
        world.programs.set_epoch(2)?;
        let cut = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(world.from_b(world.a, udp(8080, 4000))?.verdict, cut);
        assert_eq!(world.from_a(world.vip, udp(4000, 80))?.verdict, cut);
        Ok(())
    })
}

#[test]
fn the_pods_own_node_reaches_it_and_gets_its_answers_under_default_deny() -> Result<()> {
    in_both_families(0, |world| {
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        assert_eq!(world.to_a(world.outside, syn(4000, 80))?.verdict, Verdict::Pass);
        assert_eq!(world.from_a(world.outside, tcp(80, 4000, flag::SYN | flag::ACK))?.verdict, Verdict::Pass);
        let denied = Verdict::Drop(DropReason::PolicyEgress);
        assert_eq!(world.from_a(world.outside, syn(4001, 80))?.verdict, denied);
        Ok(())
    })
}

#[test]
fn what_comes_from_outside_is_judged() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, 0, 0, 0)?;
        let denied = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(world.to_a(world.outside, syn(4000, 80))?.verdict, denied);
        world.programs.allow(SET_A, 0, TCP, 80, RULE)?;
        assert_eq!(world.to_a(world.outside, syn(4000, 80))?.verdict, Verdict::Pass);
        assert_eq!(world.programs.map(MapId::DENIED_FLOWS).dump()?.len(), 1);
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
        assert_eq!(pretend(world.b, pod_mac(1))?, Verdict::Drop(DropReason::SpoofedAddress));
        assert_eq!(pretend(world.outside, pod_mac(1))?, Verdict::Drop(DropReason::SpoofedAddress));
        assert_eq!(pretend(world.a, pod_mac(2))?, Verdict::Drop(DropReason::SpoofedMac));
        assert_eq!(pretend(world.a, pod_mac(1))?, Verdict::Pass);
        Ok(())
    })
}

#[test]
fn fragments_follow_their_first_and_orphans_of_policed_pods_are_dropped() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        let whole = Packet::new(world.a, world.vip, Transport::udp(4000, 80, vec![7; 3000]))
            .between(pod_mac(1), host_mac(1));
        let pieces = whole.fragments(77, 1400);
        assert!(pieces.len() >= 3);
        for piece in &pieces {
            let run = world.programs.from_pod(world.interfaces[0], piece)?;
            assert_eq!(run.verdict, INTO_B, "{piece:?}");
            let out = millrace_tests::packet::parse(&run.frame)?;
            assert_eq!(out.addresses(), Some((world.a, world.b)));
        }
        world.isolate(0, SET_DENY_ALL, 0, 0)?;
        let orphan = whole.fragments(78, 1400).remove(1);
        let run = world.programs.from_pod(world.interfaces[0], &orphan)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::FragmentWithoutFirst));
        Ok(())
    })
}

#[test]
fn an_icmp_error_about_a_flow_passes_and_is_translated_and_another_does_not() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, 0, 0, 0)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.remote, 8080)], 0)?;
        world.from_a(world.vip, udp(4000, 80))?;
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
            .from_a(world.outside, Transport::Icmp { kind, code: 0, rest: [0; 4], data: vec![0; 28] })?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::ForbiddenIcmp), "{name}");
        let mut tagged = Packet::new(world.a, world.b, syn(1, 2)).between(pod_mac(1), host_mac(1));
        tagged.vlans = vec![7];
        let run = world.programs.from_pod(world.interfaces[0], &tagged)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::UnsupportedProtocol));
        Ok(())
    })
}

#[test]
fn ping_follows_the_rules_that_name_no_port() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let (echo, reply) = if world.a.is_ipv4() { (8, 0) } else { (128, 129) };
        let ping = |kind| Transport::Icmp { kind, code: 0, rest: [0, 9, 0, 1], data: vec![1; 16] };
        assert_eq!(world.from_a(world.b, ping(echo))?.verdict, INTO_B);
        world.isolate(SET_A, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        assert_eq!(world.from_a(world.b, ping(echo))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
        world.isolate(SET_A, 0, 0, 0)?;
        assert_eq!(world.from_a(world.b, ping(echo))?.verdict, INTO_B);
        assert_eq!(world.from_b(world.a, ping(reply))?.verdict, INTO_A);
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
