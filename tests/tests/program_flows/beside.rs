//! A client that asks a service and one of its backends by its own address from one port: two flows with the same two
//! ends, whose answers nobody could tell apart. The later one gets another port, as netfilter does it.
use std::net::IpAddr;

use anyhow::{Result, ensure};
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, zone},
    maps::MapId,
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    verdict::DropReason,
};
use harness::{
    packet::{Packet, Transport, flag},
    program::{NO_HOST, Verdict},
};
use zerocopy::FromBytes as _;

use crate::{CLASS, INTO_A, INTO_B, RULE, SET_B, World, ends, in_both_families, syn, tcp, udp};

fn first(proto: u8, source: u16, destination: u16) -> Transport {
    if proto == TCP { syn(source, destination) } else { udp(source, destination) }
}

fn answer(proto: u8, source: u16, destination: u16) -> Transport {
    if proto == TCP { tcp(source, destination, flag::SYN | flag::ACK) } else { udp(source, destination) }
}

fn further(proto: u8, source: u16, destination: u16) -> Transport {
    if proto == TCP { tcp(source, destination, flag::ACK) } else { udp(source, destination) }
}

/// `a` speaks from port 4000 to port 80 of the service, whose backend is port 8080 of `b`.
fn asks_the_service(world: &World, proto: u8) -> Result<()> {
    world.programs.frontend((world.vip, 80, proto), 0, &[(world.b, 8080)], 0)?;
    assert_eq!(world.a_sends(world.vip, first(proto, 4000, 80))?.verdict, INTO_B);
    world.b_sends(world.a, answer(proto, 8080, 4000))?;
    assert_eq!(world.a_sends(world.vip, further(proto, 4000, 80))?.verdict, INTO_B);
    Ok(())
}

/// `a` speaks from the same port to `b` directly; the port that `b` sees.
fn asks_directly(world: &World, proto: u8) -> Result<u16> {
    let run = world.a_sends(world.b, first(proto, 4000, 8080))?;
    assert_eq!(run.verdict, INTO_B);
    let (source, port, destination, destination_port) = ends(&run)?;
    assert_eq!((source, destination, destination_port), (world.a, world.b, 8080));
    ensure!(port != 4000, "both flows have the same ends");
    let run = world.b_sends(world.a, answer(proto, 8080, port))?;
    assert_eq!((run.verdict, ends(&run)?), (INTO_A, (world.b, 8080, world.a, 4000)));
    is_alive(world, proto, port)?;
    Ok(port)
}

/// The direct flow goes on in both directions, by the port that `b` knows.
fn is_alive(world: &World, proto: u8, port: u16) -> Result<()> {
    let run = world.a_sends(world.b, further(proto, 4000, 8080))?;
    assert_eq!((run.verdict, ends(&run)?), (INTO_B, (world.a, port, world.b, 8080)));
    let run = world.b_sends(world.a, further(proto, 8080, port))?;
    assert_eq!((run.verdict, ends(&run)?), (INTO_A, (world.b, 8080, world.a, 4000)));
    Ok(())
}

fn service_is_alive(world: &World, proto: u8) -> Result<()> {
    let run = world.a_sends(world.vip, further(proto, 4000, 80))?;
    assert_eq!((run.verdict, ends(&run)?), (INTO_B, (world.a, 4000, world.b, 8080)));
    let run = world.b_sends(world.a, further(proto, 8080, 4000))?;
    assert_eq!((run.verdict, ends(&run)?), (INTO_A, (world.vip, 80, world.a, 4000)));
    Ok(())
}

/// Removes what is remembered of flows outside of the zone of direct ones, as the collector and evictions do.
fn forget_the_service(world: &World) -> Result<()> {
    let maps = if world.a.is_ipv4() {
        [MapId::CT_NEW_V4, MapId::CT_EST_V4]
    } else {
        [MapId::CT_NEW_V6, MapId::CT_EST_V6]
    };
    let client_zone = |value: &[u8]| {
        if world.a.is_ipv4() {
            CtEntryV4::read_from_bytes(value).map(|entry| entry.state.client_zone).ok()
        } else {
            CtEntryV6::read_from_bytes(value).map(|entry| entry.state.client_zone).ok()
        }
    };
    for map in maps {
        for (key, value) in world.programs.map(map).dump()? {
            if client_zone(&value) == Some(zone::POD) {
                world.programs.map(map).delete(&key)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_direct_flow_gets_another_port_and_both_go_on() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for (proto, set) in [(TCP, 0), (UDP, 0), (TCP, SET_B), (UDP, SET_B)] {
            world.programs.forget_flows()?;
            world.isolate(0, 0, set, 0)?;
            world.programs.class(world.a, CLASS)?;
            world.programs.allow(SET_B, CLASS, proto, 8080, RULE)?;
            asks_the_service(world, proto)?;
            let port = asks_directly(world, proto)?;
            service_is_alive(world, proto)?;
            is_alive(world, proto, port)?;
            assert_eq!(world.flows()?, (0, 4), "both halves of both flows are established");
        }
        Ok(())
    })
}

#[test]
fn it_goes_on_when_the_service_is_forgotten_or_starts_again() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for proto in [TCP, UDP] {
            world.programs.forget_flows()?;
            asks_the_service(world, proto)?;
            let port = asks_directly(world, proto)?;
            forget_the_service(world)?;
            is_alive(world, proto, port)?;
            asks_the_service(world, proto)?;
            is_alive(world, proto, port)?;
            service_is_alive(world, proto)?;
        }
        // What has ended is no reason to open the live flow again.
        world.programs.forget_flows()?;
        asks_the_service(world, TCP)?;
        let port = asks_directly(world, TCP)?;
        world.b_sends(world.a, tcp(8080, 4000, flag::FIN | flag::ACK))?;
        world.a_sends(world.vip, tcp(4000, 80, flag::FIN | flag::ACK))?;
        let run = world.a_sends(world.b, syn(4000, 8080))?;
        assert_eq!(ends(&run)?, (world.a, port, world.b, 8080), "a SYN that is sent again");
        is_alive(world, TCP, port)
    })
}

#[test]
fn policy_judges_it_by_the_ports_that_its_client_asks_for() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for proto in [TCP, UDP] {
            world.programs.forget_flows()?;
            world.isolate(0, 0, 0, 0)?;
            asks_the_service(world, proto)?;
            let port = asks_directly(world, proto)?;
            world.isolate(0, 0, SET_DENY_ALL, 0)?;
            world.next_epoch()?;
            let denied = Verdict::Drop(DropReason::PolicyIngress);
            assert_eq!(world.a_sends(world.b, further(proto, 4000, 8080))?.verdict, denied);
            assert_eq!(world.b_sends(world.a, further(proto, 8080, port))?.verdict, denied);
            world.programs.forget_flows()?;
            world.isolate(0, 0, 0, 0)?;
            asks_the_service(world, proto)?;
            world.isolate(0, 0, SET_DENY_ALL, 0)?;
            assert_eq!(world.a_sends(world.b, first(proto, 4000, 8080))?.verdict, denied, "it never opens");
            assert_eq!(world.flows()?.0 + world.flows()?.1, 2, "those of the service");
        }
        Ok(())
    })
}

#[test]
fn an_error_about_it_finds_it() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        asks_the_service(world, UDP)?;
        let port = asks_directly(world, UDP)?;
        let error = |from: IpAddr, to: IpAddr, ports: (u16, u16)| {
            let (kind, code) = if from.is_ipv4() { (3, 3) } else { (1, 4) };
            Transport::icmp_error(kind, code, [0; 4], &Packet::new(from, to, udp(ports.0, ports.1)), 8)
        };
        let run = world.b_sends(world.a, error(world.a, world.b, (port, 8080)))?;
        assert_eq!(run.verdict, INTO_A);
        assert_eq!(quoted_ports(&run.frame, world), (4000, 8080), "as its client knows it");
        let run = world.a_sends(world.b, error(world.b, world.a, (8080, 4000)))?;
        assert_eq!(run.verdict, INTO_B);
        assert_eq!(quoted_ports(&run.frame, world), (8080, port), "as its server knows it");
        Ok(())
    })
}

/// The ports in the packet that an ICMP error quotes.
fn quoted_ports(frame: &[u8], world: &World) -> (u16, u16) {
    let header = if world.a.is_ipv4() { 20 } else { 40 };
    let at = 14 + header + 8 + header;
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (port(at), port(at + 2))
}

#[test]
fn a_segment_of_a_connection_that_nobody_knows_opens_nothing_there() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        asks_the_service(world, TCP)?;
        let run = world.a_sends(world.b, tcp(4000, 8080, flag::ACK))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::NatPortsExhausted));
        service_is_alive(world, TCP)
    })
}
