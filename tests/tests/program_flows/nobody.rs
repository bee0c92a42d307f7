//! What nobody answers: ports that a service does not have, pods that are gone.
use std::{net::IpAddr, time::Instant};

use anyhow::{Result, ensure};
use dataplane_common::{
    net::proto,
    route::{Rejections, kind, slot},
    verdict::DropReason,
};
use harness::{
    eventually::{PATIENCE, eventually},
    packet::{Packet, Transport, flag, verify},
    program::{NO_HOST, Run, Verdict, interface_mac, nobody_has},
};

use crate::{INTO_B, SET_A, World, in_both_families, syn, tcp, udp};

/// Link-layer address of the router that sends by the uplink.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 9, 9];

impl World<'_> {
    /// Makes the virtual address that of a service, without a port.
    fn is_service(&self) -> Result<()> {
        let bits = if self.vip.is_ipv4() { 32 } else { 128 };
        self.programs.route_nowhere(self.vip, bits.into(), kind::SERVICE)?;
        self.programs.prefix(slot::SERVICES, self.vip, bits)
    }

    /// Comes in by the uplink.
    fn arrives(&self, from: IpAddr, to: IpAddr, transport: Transport) -> Result<Run> {
        let packet = Packet::new(from, to, transport).between(ROUTER, interface_mac(2));
        self.programs.from_netdev(self.interfaces[2], &packet)
    }
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.is_service()?;
        for isolated in [0, SET_A] {
            world.isolate(isolated, 0, 0, 0)?;
            for transport in [syn(4000, 81), udp(4000, 81), tcp(4000, 81, flag::ACK)] {
                let run = world.a_sends(world.vip, transport)?;
                assert_eq!(run.verdict, Verdict::Reject);
                assert_eq!(verify(&run.frame)?.addresses(), Some((world.vip, world.a)));
            }
            let run = world.a_sends(world.vip, tcp(4000, 81, flag::RST))?;
            assert_eq!(run.verdict, Verdict::Drop(DropReason::UnknownServicePort));
        }
        // A port that comes later is not kept from those who asked before.
        assert_eq!(world.flows()?, (0, 0));
        world.programs.frontend((world.vip, 81, proto::UDP), 0, &[(world.b, 8080)], 0)?;
        assert_eq!(world.a_sends(world.vip, udp(4000, 81))?.verdict, INTO_B);
        Ok(())
    })
}

#[test]
fn what_comes_from_outside_for_a_service_never_leaves_again() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.is_service()?;
        for transport in [syn(4000, 81), udp(4000, 81), tcp(4000, 81, flag::ACK)] {
            let run = world.arrives(world.outside, world.vip, transport)?;
            assert_eq!(run.verdict, Verdict::Reject);
            let answer = verify(&run.frame)?;
            assert_eq!(answer.addresses(), Some((world.vip, world.outside)));
            assert_eq!((answer.destination_mac, answer.source_mac), (ROUTER, interface_mac(2)));
        }
        let dropped = Verdict::Drop(DropReason::UnknownServicePort);
        assert_eq!(world.arrives(world.outside, world.vip, tcp(4000, 81, flag::RST))?.verdict, dropped);
        let groups = if world.vip.is_ipv4() {
            ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
        } else {
            ["::", "::1", "ff02::1", "ff05::2"]
        };
        for source in groups {
            assert_eq!(
                world.arrives(source.parse()?, world.vip, udp(4000, 81))?.verdict,
                dropped,
                "{source}"
            );
        }
        Ok(())
    })
}

#[test]
fn icmp_errors_to_one_interface_are_limited_and_take_none_from_another() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.is_service()?;
        let refused = |run: Run| run.verdict == Verdict::Reject;
        let (started, mut answered) = (Instant::now(), 0);
        for _ in 0..1_000 {
            answered += u32::from(refused(world.a_sends(world.vip, udp(4000, 81))?));
        }
        // Of each second that was touched.
        let most = Rejections::LIMIT * (u32::try_from(started.elapsed().as_secs())? + 2);
        assert!((Rejections::LIMIT..=most).contains(&answered), "{answered}, at most {most}");
        assert!(refused(world.b_sends(world.vip, udp(4000, 81))?));
        let run = world.a_sends(world.vip, syn(4000, 81))?;
        assert_eq!(run.verdict, Verdict::Reject, "a reset is no ICMP error");
        // Whoever was told often is told again a second later.
        eventually("it is told again", PATIENCE, || {
            let run = world.a_sends(world.vip, udp(4000, 81))?;
            ensure!(refused(run), "it is not told");
            Ok(())
        })
    })
}

#[test]
fn a_connection_to_a_pod_that_is_gone_is_reset_and_all_else_left_to_the_stack() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let (gone, prefix, bits) =
            if world.a.is_ipv4() { ("10.1.0.77", "10.1.0.0/24", 24) } else { ("fd01::77", "fd01::/64", 64) };
        let gone: IpAddr = gone.parse()?;
        world.programs.prefix(slot::PODS, gone, bits)?;
        let segments = [flag::ACK, flag::FIN | flag::ACK, flag::PSH | flag::ACK];
        // Somebody may have the address, for all that the host's routes say.
        assert_eq!(world.a_sends(gone, tcp(4000, 80, flag::ACK))?.verdict, Verdict::Pass);
        assert_eq!(world.arrives(world.remote, gone, tcp(4000, 80, flag::ACK))?.verdict, Verdict::Pass);
        nobody_has(prefix)?;
        for isolated in [0, SET_A] {
            world.isolate(isolated, 0, 0, 0)?;
            for flags in segments {
                let run = world.a_sends(gone, tcp(4000, 80, flags))?;
                assert_eq!(run.verdict, Verdict::Reject);
                assert_eq!(verify(&run.frame)?.addresses(), Some((gone, world.a)));
            }
        }
        world.isolate(0, 0, 0, 0)?;
        for transport in [syn(4000, 80), udp(4000, 80), tcp(4000, 80, flag::RST)] {
            assert_eq!(world.a_sends(gone, transport)?.verdict, Verdict::Pass);
        }
        // The same from another node: the answer goes back where the frame came from.
        for flags in segments {
            let run = world.arrives(world.remote, gone, tcp(4000, 80, flags))?;
            assert_eq!(run.verdict, Verdict::Reject);
            let answer = verify(&run.frame)?;
            assert_eq!(answer.addresses(), Some((gone, world.remote)));
            assert_eq!((answer.destination_mac, answer.source_mac), (ROUTER, interface_mac(2)));
        }
        for transport in [syn(4000, 80), udp(4000, 80), tcp(4000, 80, flag::RST)] {
            assert_eq!(world.arrives(world.remote, gone, transport)?.verdict, Verdict::Pass);
        }
        Ok(())
    })
}
