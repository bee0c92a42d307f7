//! What a process of the host sends to a service, where the socket was not translated, and how the answers find it.
use std::net::{IpAddr, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::{
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    route::{kind, slot},
    service::flag::DROP_WHEN_EMPTY,
    verdict::{DropReason, Hook},
};
use harness::{
    packet::{Packet, Transport, flag, parse, verify},
    program::{
        NO_HOST, Run, Verdict,
        fixture::{host_mac, pod_mac},
        interface_mac,
    },
};

use crate::{INTO_A, World, ends, in_both_families, syn, tcp, udp, with_hops};

/// The uplink among the interfaces, and the router there.
const UPLINK: usize = 2;
const MAC: [u8; 6] = interface_mac(2);
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// Packets without an interface that they came in by are a process's of the host.
const HOST: u32 = 0;

/// A host with services: [`World`], and what the agent tells of it.
struct Host<'a> {
    world: &'a World<'a>,
    addr: IpAddr,
    /// Another service.
    other_vip: IpAddr,
}

impl<'a> Host<'a> {
    /// Both services have this backend alone.
    fn with_backend(world: &'a World<'a>, backend: IpAddr) -> Result<Self> {
        let (addr, other_vip) =
            if world.a.is_ipv4() { ("172.16.0.1", "10.96.0.11") } else { ("fd16::1", "fd96::11") };
        let host = Self { world, addr: addr.parse()?, other_vip: other_vip.parse()? };
        let bits = if world.a.is_ipv4() { 32 } else { 128 };
        let programs = world.programs;
        programs.prefix(slot::SERVICES, world.vip, u8::try_from(bits - 8)?)?;
        programs.host_path(world.a.is_ipv6(), world.interfaces[UPLINK], MAC)?;
        for (vip, start) in [(world.vip, 0), (host.other_vip, 10)] {
            programs.route_nowhere(vip, bits, kind::SERVICE)?;
            for proto in [TCP, UDP] {
                programs.frontend((vip, 80, proto), start, &[(backend, 8080)], 0)?;
            }
        }
        Ok(host)
    }

    fn packet(&self, to: IpAddr, transport: Transport) -> Packet {
        Packet::new(self.addr, to, transport).between(MAC, ROUTER_MAC)
    }

    fn sends_packet(&self, packet: &Packet) -> Result<Run> {
        self.world.programs.to_netdev(self.world.interfaces[UPLINK], packet)
    }

    fn sends(&self, to: IpAddr, transport: Transport) -> Result<Run> {
        self.sends_packet(&self.packet(to, transport))
    }

    /// Comes in by the uplink.
    fn hears(&self, from: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(from, self.addr, transport).between(ROUTER_MAC, MAC);
        self.world.programs.from_netdev(self.world.interfaces[UPLINK], &packet)
    }

    /// Sends the first packet of a flow to a service; the port that its backend sees.
    fn opens(&self, to: IpAddr, transport: Transport, verdict: Verdict, backend: IpAddr) -> Result<u16> {
        let run = self.sends(to, transport)?;
        assert_eq!(run.verdict, verdict);
        let (source, port, destination, destination_port) = ends(&run)?;
        assert_eq!((source, destination, destination_port), (self.addr, backend, 8080));
        Ok(port)
    }

    /// Leaves the packet as it is.
    fn passes(&self, packet: &Packet) -> Result<()> {
        let run = self.sends_packet(packet)?;
        assert_eq!((run.verdict, run.frame), (Verdict::Pass, packet.bytes()), "{packet}");
        Ok(())
    }
}

/// Addresses and ports of the packet that an ICMP error quotes.
fn quoted_ends(error: Option<&Transport>) -> Result<Vec<u8>> {
    let Some(Transport::Icmp { data, .. }) = error else { bail!("{error:?} is no ICMP error") };
    let ends = if data[0] >> 4 == 4 { 12..24 } else { 8..44 };
    Ok(data.get(ends).context("too short a quote")?.to_vec())
}

const INWARD: Verdict = Verdict::PassInward(MAC);

fn both_kinds() -> [fn(u16, u16) -> Transport; 2] {
    [syn, udp]
}

#[test]
fn flows_of_one_port_to_one_backend_of_this_node_get_ports_of_their_own() -> Result<()> {
    in_both_families(HOST, |world| {
        // No policy keeps the pod's own node out.
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        let host = Host::with_backend(world, world.a)?;
        for first in both_kinds() {
            let mut seen = Vec::new();
            for to in [world.vip, host.other_vip] {
                let port = host.opens(to, first(4000, 80), INTO_A, world.a)?;
                ensure!(port >= 0x8000 && !seen.contains(&port), "{port} beside {seen:?}");
                seen.push(port);
                let answers = |port: u16| {
                    if first(1, 2) == syn(1, 2) {
                        tcp(8080, port, flag::SYN | flag::ACK)
                    } else {
                        udp(8080, port)
                    }
                };
                // The host's stack would have to take it from the pod's interface, where no service is.
                let run = world.a_sends(host.addr, answers(port))?;
                assert_eq!((run.verdict, ends(&run)?), (INWARD, (to, 80, host.addr, 4000)));
                // And on: the same flow.
                let again = if first(1, 2) == syn(1, 2) { tcp(4000, 80, flag::ACK) } else { udp(4000, 80) };
                assert_eq!(host.opens(to, again, INTO_A, world.a)?, port);
            }
        }
        Ok(())
    })
}

#[test]
fn what_was_translated_enters_the_pod_as_it_is() -> Result<()> {
    in_both_families(HOST, |world| {
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        let host = Host::with_backend(world, world.a)?;
        for first in both_kinds() {
            let run = host.sends(world.vip, first(4000, 80))?;
            let flows = world.flows()?;
            let entered = world.programs.run(Hook::ToPod, world.interfaces[0], &run.frame)?;
            assert_eq!(entered, Run { verdict: Verdict::Pass, frame: run.frame });
            assert_eq!(world.flows()?, flows, "it has its flow");
        }
        Ok(())
    })
}

#[test]
fn flows_to_another_node_leave_for_it_and_their_answers_are_translated_back() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.remote)?;
        let before = host.hears(world.remote, udp(8080, 4000))?;
        assert_eq!(before.verdict, Verdict::Pass);
        let mut ports = Vec::new();
        for to in [world.vip, host.other_vip] {
            let sent = with_hops(host.packet(to, udp(4000, 80)), 1);
            let run = host.sends_packet(&sent)?;
            assert_eq!(run.verdict, Verdict::Forward, "no hop is behind it");
            let (_, port, destination, _) = ends(&run)?;
            assert_eq!(destination, world.remote);
            ensure!(!ports.contains(&port), "{port} twice");
            ports.push(port);
            let run = host.hears(world.remote, udp(8080, port))?;
            assert_eq!((run.verdict, ends(&run)?), (Verdict::Pass, (to, 80, host.addr, 4000)));
            // Another pod there, and the same one by another interface, are no end of the flow.
            let another: IpAddr = if world.a.is_ipv4() { "10.2.0.9".parse()? } else { "fd02::9".parse()? };
            for (from, interface) in [(another, UPLINK), (world.remote, 1)] {
                let mac = interface_mac(u8::try_from(interface)?);
                let lie = Packet::new(from, host.addr, udp(8080, port)).between(ROUTER_MAC, mac);
                let run = world.programs.from_netdev(world.interfaces[interface], &lie)?;
                assert_eq!((run.verdict, run.frame), (Verdict::Pass, lie.bytes()));
            }
        }
        Ok(())
    })
}

#[test]
fn another_pod_is_no_end_of_a_flow_of_the_host() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.a)?;
        let port = host.opens(world.vip, udp(4000, 80), INTO_A, world.a)?;
        let run = world.b_sends(host.addr, udp(8080, port))?;
        assert_eq!((run.verdict, ends(&run)?), (Verdict::Pass, (world.b, 8080, host.addr, port)));
        let lie = Packet::new(world.a, host.addr, udp(8080, port)).between(pod_mac(2), host_mac(2));
        let run = world.programs.from_pod(world.interfaces[1], &lie)?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::SpoofedAddress));
        let run = host.hears(world.a, udp(8080, port))?;
        assert_eq!(ends(&run)?, (world.a, 8080, host.addr, port), "from outside");
        Ok(())
    })
}

#[test]
fn what_is_for_no_service_is_left_as_it_is() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.a)?;
        for to in [world.a, world.remote, world.outside] {
            for transport in [syn(4000, 80), udp(4000, 80), tcp(4000, 80, flag::ACK)] {
                host.passes(&host.packet(to, transport))?;
            }
        }
        // An address beside those of the services.
        let beside: IpAddr = if world.a.is_ipv4() { "10.96.0.99".parse()? } else { "fd96::99".parse()? };
        for transport in [syn(4000, 80), udp(4000, 80), tcp(4000, 80, flag::ACK)] {
            host.passes(&host.packet(beside, transport))?;
        }
        let mut tagged = host.packet(world.vip, syn(4000, 80));
        tagged.vlans = vec![42];
        host.passes(&tagged)?;
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn what_came_in_by_an_interface_is_not_looked_at() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let host = Host::with_backend(world, world.a)?;
        host.passes(&host.packet(world.vip, syn(4000, 80)))?;
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn what_nobody_answers_is_refused() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.a)?;
        let echo = if world.a.is_ipv4() { 8 } else { 128 };
        let ping = Transport::Icmp { kind: echo, code: 0, rest: [0; 4], data: vec![0; 16] };
        // A segment of no connection, a port that the service does not have, what is neither TCP nor UDP.
        for transport in [tcp(4000, 80, flag::ACK), syn(4000, 81), udp(4000, 81), ping] {
            let run = host.sends(world.vip, transport)?;
            assert_eq!(run.verdict, Verdict::Reject);
            let answer = verify(&run.frame)?;
            assert_eq!(answer.addresses(), Some((world.vip, host.addr)));
            assert_eq!(run.frame[..12], [MAC, ROUTER_MAC].concat(), "to the host itself");
        }
        world.programs.frontend((world.vip, 80, TCP), 0, &[], 0)?;
        assert_eq!(host.sends(world.vip, syn(4001, 80))?.verdict, Verdict::Reject, "no backend");
        world.programs.frontend((world.vip, 80, TCP), 0, &[], DROP_WHEN_EMPTY)?;
        let dropped = Verdict::Drop(DropReason::NoLocalBackend);
        assert_eq!(host.sends(world.vip, syn(4001, 80))?.verdict, dropped);
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn a_backend_that_is_gone_is_sent_nothing() -> Result<()> {
    in_both_families(HOST, |world| {
        let gone: IpAddr = if world.a.is_ipv4() { "10.1.0.9".parse()? } else { "fd01::9".parse()? };
        let host = Host::with_backend(world, gone)?;
        let run = host.sends(world.vip, syn(4000, 80))?;
        assert_eq!(run.verdict, Verdict::Drop(DropReason::NoBackend));
        Ok(())
    })
}

#[test]
fn a_privileged_port_stays_one_and_no_port_of_a_socket_is_taken() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.a)?;
        assert_eq!(host.opens(world.vip, udp(700, 80), INTO_A, world.a)?, 700);
        let other = host.opens(host.other_vip, udp(700, 80), INTO_A, world.a)?;
        ensure!(other < 1024 && other != 700, "{other}");
        // A socket of the host that takes whatever comes to its port.
        let any = if world.a.is_ipv4() { "0.0.0.0:701" } else { "[::]:701" };
        let _socket = UdpSocket::bind(any)?;
        let port = host.opens(world.vip, udp(701, 80), INTO_A, world.a)?;
        ensure!(port < 1024 && port != 701, "{port}");
        Ok(())
    })
}

#[test]
fn errors_about_a_flow_of_the_host_find_its_socket() -> Result<()> {
    in_both_families(HOST, |world| {
        let (kind, code) = if world.a.is_ipv4() { (3, 3) } else { (1, 4) };
        let about = |quoted: &Packet| Transport::icmp_error(kind, code, [0; 4], quoted, 8);
        for (port, backend) in [(4000, world.a), (4001, world.remote)] {
            let host = Host::with_backend(world, backend)?;
            let run = host.sends(world.vip, udp(port, 80))?;
            let quoted = verify(&run.frame)?;
            let wanted = about(&host.packet(world.vip, udp(port, 80)));
            if backend == world.a {
                let run = world.a_sends(host.addr, about(&quoted))?;
                assert_eq!(run.verdict, INWARD);
                let error = verify(&run.frame)?;
                assert_eq!(error.addresses(), Some((world.vip, host.addr)));
                assert_eq!(quoted_ends(error.transport())?, quoted_ends(Some(&wanted))?);
                continue;
            }
            // From the pod itself, and from a router, which keeps its name.
            for (from, shown) in [(world.remote, world.vip), (world.outside, world.outside)] {
                let run = host.hears(from, about(&quoted))?;
                assert_eq!(run.verdict, Verdict::Pass);
                let error = verify(&run.frame)?;
                assert_eq!(error.addresses(), Some((shown, host.addr)));
                assert_eq!(quoted_ends(error.transport())?, quoted_ends(Some(&wanted))?);
            }
            // What the host was told already, and what is about nothing of it.
            for transport in [wanted, about(&host.packet(world.remote, udp(1, 2)))] {
                let packet = Packet::new(world.outside, host.addr, transport).between(ROUTER_MAC, MAC);
                let run = world.programs.from_netdev(world.interfaces[UPLINK], &packet)?;
                assert_eq!((run.verdict, run.frame), (Verdict::Pass, packet.bytes()));
            }
        }
        Ok(())
    })
}

#[test]
fn the_fragments_of_a_datagram_follow_its_first() -> Result<()> {
    in_both_families(HOST, |world| {
        let host = Host::with_backend(world, world.remote)?;
        let whole = host.packet(world.vip, Transport::udp(4000, 80, vec![7; 3000]));
        for piece in whole.fragments(5, 1400) {
            let run = host.sends_packet(&piece)?;
            assert_eq!(run.verdict, Verdict::Forward, "{piece}");
            assert_eq!(parse(&run.frame)?.addresses(), Some((host.addr, world.remote)));
        }
        let (_, port, ..) = ends(&host.sends(world.vip, udp(4000, 80))?)?;
        let answer = Packet::new(world.remote, host.addr, Transport::udp(8080, port, vec![7; 3000]));
        for piece in answer.between(ROUTER_MAC, MAC).fragments(6, 1400) {
            let run = world.programs.from_netdev(world.interfaces[UPLINK], &piece)?;
            assert_eq!(run.verdict, Verdict::Pass);
            assert_eq!(parse(&run.frame)?.addresses(), Some((world.vip, host.addr)));
        }
        Ok(())
    })
}
