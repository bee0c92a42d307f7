//! An ICMP error passes with the flow that it is about only on its way to who sent the packet that it quotes.
use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::{net::proto::UDP, policy::SET_DENY_ALL, verdict::DropReason};
use harness::{
    packet::{Packet, Transport, verify},
    program::{NO_HOST, Verdict},
};

use crate::{CLASS, INTO_A, RULE, SET_A, World, in_both_families, udp};

const UNRELATED: Verdict = Verdict::Drop(DropReason::UnrelatedIcmpError);

/// An error that quotes a datagram from port 4000 of one end to `port` of the other.
fn about(from: IpAddr, ports: (u16, u16), to: IpAddr) -> Transport {
    let (kind, code) = if from.is_ipv4() { (3, 1) } else { (1, 0) };
    let quoted = Packet::new(from, to, udp(ports.0, ports.1));
    Transport::icmp_error(kind, code, [0; 4], &quoted, 8)
}

/// A flow from `a`, which lets nobody in, to port 53 of the remote pod.
fn asks_remote(world: &World) -> Result<()> {
    world.isolate(SET_DENY_ALL, 0, SET_DENY_ALL, 0)?;
    assert_eq!(world.a_sends(world.remote, udp(4000, 53))?.verdict, Verdict::Forward);
    assert_eq!(world.to_a(world.remote, udp(53, 4000))?.verdict, Verdict::Pass);
    Ok(())
}

#[test]
fn only_the_other_end_and_routers_may_send_one() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        asks_remote(world)?;
        let error = || about(world.a, (4000, 53), world.remote);
        assert_eq!(world.b_sends(world.a, error())?.verdict, UNRELATED, "another pod of the node");
        let other: IpAddr = if world.a.is_ipv4() { "10.2.0.9".parse()? } else { "fd02::9".parse()? };
        assert_eq!(world.to_a(other, error())?.verdict, UNRELATED, "another pod of another node");
        assert_eq!(world.to_a(world.remote, error())?.verdict, Verdict::Pass, "the other end");
        assert_eq!(world.to_a(world.outside, error())?.verdict, Verdict::Pass, "a router");
        Ok(())
    })
}

#[test]
fn one_that_goes_to_another_than_the_sender_of_what_it_quotes_is_a_message_of_its_own() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        asks_remote(world)?;
        let (asked, answered) =
            (about(world.a, (4000, 53), world.remote), about(world.remote, (53, 4000), world.a));
        assert_eq!(world.a_sends(world.b, asked.clone())?.verdict, UNRELATED, "to a third pod");
        assert_eq!(world.a_sends(world.b, answered.clone())?.verdict, UNRELATED, "to a third pod");
        assert_eq!(world.to_a(world.remote, answered.clone())?.verdict, UNRELATED, "back to its receiver");
        assert_eq!(world.a_sends(world.remote, answered)?.verdict, Verdict::Forward, "to its sender");
        Ok(())
    })
}

#[test]
fn one_about_a_translated_flow_is_translated_only_when_it_is_related() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        world.programs.frontend((world.vip, 80, UDP), 0, &[(world.b, 8080)], 0)?;
        world.a_sends(world.vip, udp(4000, 80))?;
        world.b_sends(world.a, udp(8080, 4000))?;
        let error = || about(world.a, (4000, 8080), world.b);
        assert_eq!(world.to_a(world.remote, error())?.verdict, UNRELATED);
        let run = world.b_sends(world.a, error())?;
        assert_eq!(run.verdict, INTO_A);
        assert_eq!(verify(&run.frame)?.addresses(), Some((world.vip, world.a)));
        Ok(())
    })
}

#[test]
fn one_about_a_flow_that_policy_has_revoked_does_not_pass_even_as_the_first_packet_after_it() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, SET_A, 0, 0)?;
        world.programs.class(world.remote, CLASS)?;
        world.programs.allow(SET_A, CLASS, UDP, 53, RULE)?;
        assert_eq!(world.a_sends(world.remote, udp(4000, 53))?.verdict, Verdict::Forward);
        let error = || about(world.a, (4000, 53), world.remote);
        assert_eq!(world.to_a(world.remote, error())?.verdict, Verdict::Pass);
        world.programs.disallow(SET_A, CLASS, UDP, 53)?;
        world.next_epoch()?;
        assert_eq!(world.to_a(world.remote, error())?.verdict, UNRELATED);
        world.programs.allow(SET_A, CLASS, UDP, 53, RULE)?;
        assert_eq!(world.to_a(world.remote, error())?.verdict, Verdict::Pass);
        Ok(())
    })
}
