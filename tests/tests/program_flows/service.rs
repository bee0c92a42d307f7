//! Frontend to backend and back.
use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::{
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    service::flag::DROP_WHEN_EMPTY,
    verdict::DropReason,
};
use harness::{
    packet::{Packet, Transport, flag, verify},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
    },
};

use crate::{INTO_A, INTO_B, ends, in_both_families, syn, tcp, udp};

#[test]
fn a_service_is_translated_there_and_back_with_right_checksums() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for proto in [TCP, UDP] {
            world.programs.frontend((world.vip, 80, proto), 4, &[(world.b, 8080)], 0)?;
            let (request, answer) = match proto {
                TCP => (syn(4000, 80), tcp(8080, 4000, flag::SYN | flag::ACK)),
                _ => (udp(4000, 80), udp(8080, 4000)),
            };
            let run = world.a_sends(world.vip, request)?;
            assert_eq!(run.verdict, INTO_B);
            assert_eq!(ends(&run)?, (world.a, 4000, world.b, 8080));
            let run = world.b_sends(world.a, answer)?;
            assert_eq!(run.verdict, INTO_A);
            assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        }
        Ok(())
    })
}

#[test]
fn new_flows_are_spread_over_all_backends() -> Result<()> {
    const BACKENDS: [u16; 4] = [8080, 8081, 8082, 8083];
    in_both_families(NO_HOST, |world| {
        let backends = BACKENDS.map(|port| (world.b, port));
        for (proto, transport) in [(TCP, syn as fn(u16, u16) -> Transport), (UDP, udp)] {
            world.programs.frontend((world.vip, 80, proto), 0, &backends, 0)?;
            let mut chosen = BTreeMap::new();
            for port in 4000..4200 {
                let (.., backend) = ends(&world.a_sends(world.vip, transport(port, 80))?)?;
                *chosen.entry(backend).or_insert(0) += 1;
            }
            // Fifty each on average: as few as ten come by chance once in 10^13 times.
            assert_eq!(chosen.keys().copied().collect::<Vec<_>>(), BACKENDS);
            assert!(chosen.values().all(|count| *count >= 10), "{chosen:?}");
        }
        Ok(())
    })
}

#[test]
fn a_translated_flow_to_a_remote_backend_comes_back_through_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.remote, 8080)], 0)?;
        let run = world.a_sends(world.vip, udp(4000, 80))?;
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
        assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, INTO_B);
        world.programs.frontend((world.vip, 80, TCP), 8, &[(world.remote, 8080)], 0)?;
        assert_eq!(world.a_sends(world.vip, tcp(4000, 80, flag::ACK))?.verdict, INTO_B);
        assert_eq!(world.a_sends(world.vip, syn(4001, 80))?.verdict, Verdict::Forward);
        Ok(())
    })
}

#[test]
fn a_direct_connection_opens_over_what_is_left_of_a_translated_one() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        for end in [flag::RST, flag::FIN | flag::ACK] {
            world.programs.forget_flows()?;
            assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, INTO_B);
            world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
            world.a_sends(world.vip, tcp(4000, 80, flag::ACK))?;
            world.b_sends(world.a, tcp(8080, 4000, end))?;
            world.a_sends(world.vip, tcp(4000, 80, end))?;
            assert_eq!(world.a_sends(world.b, syn(4000, 8080))?.verdict, INTO_B, "{end:#x}");
            let answer = world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
            assert_eq!(ends(&answer)?, (world.b, 8080, world.a, 4000), "it is not translated: {end:#x}");
        }
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_a_service() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.a, 8080)], 0)?;
        let run = world.a_sends(world.vip, udp(4000, 80))?;
        assert_eq!(run.verdict, INTO_A);
        let (source, source_port, destination, _) = ends(&run)?;
        assert_eq!((source_port, destination), (4000, world.a));
        assert_ne!(source, world.a, "the answer would not leave the pod");
        let run = world.a_sends(source, udp(8080, 4000))?;
        assert_eq!(run.verdict, INTO_A);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[], 0)?;
        let run = world.a_sends(world.vip, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Reject);
        assert_eq!(ends(&run)?, (world.vip, 80, world.a, 4000));
        let packet = verify(&run.frame)?;
        assert_eq!((packet.destination_mac, packet.source_mac), (pod_mac(1), host_mac(1)));
        let Some(Transport::Tcp { flags, acknowledgement, .. }) = packet.transport() else {
            panic!("not TCP: {packet:?}");
        };
        assert_eq!((*flags, *acknowledgement), (flag::RST | flag::ACK, 1));

        world.programs.frontend((world.vip, 53, UDP), 0, &[], 0)?;
        let run = world.a_sends(world.vip, udp(4000, 53))?;
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
        let run = world.a_sends(world.vip, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::NoLocalBackend));
        Ok(())
    })
}

#[test]
fn two_flows_whose_answers_would_look_alike_get_different_ports() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        world.programs.frontend((world.vip, 81, UDP), 0, &[(world.b, 8080)], 0)?;
        let first = world.a_sends(world.vip, udp(4000, 80))?;
        let second = world.a_sends(world.vip, udp(4000, 81))?;
        assert_eq!(ends(&first)?, (world.a, 4000, world.b, 8080));
        let (_, port, ..) = ends(&second)?;
        assert_ne!(port, 4000);
        let answer = world.b_sends(world.a, udp(8080, port))?;
        assert_eq!(ends(&answer)?, (world.vip, 81, world.a, 4000));
        let answer = world.b_sends(world.a, udp(8080, 4000))?;
        assert_eq!(ends(&answer)?, (world.vip, 80, world.a, 4000));
        Ok(())
    })
}
