//! Who may reach whom, and what a change cuts.
use anyhow::Result;
use dataplane_common::{
    maps::MapId,
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    verdict::DropReason,
};
use harness::{
    packet::{Transport, flag},
    program::{NO_HOST, Verdict},
};

use crate::{CLASS, INTO_A, INTO_B, RULE, SET_A, SET_B, in_both_families, syn, tcp, udp};

#[test]
fn policy_judges_the_backend_and_answers_need_no_rule() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, SET_B)?;
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.programs.allow(SET_B, CLASS, TCP, 8080, RULE)?;
        assert_eq!(
            world.a_sends(world.vip, syn(4000, 80))?.verdict,
            Verdict::Drop(DropReason::PolicyIngress)
        );
        world.programs.class(world.a, CLASS)?;
        assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, INTO_B);
        assert_eq!(world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.b_sends(world.a, syn(4000, 80))?.verdict, Verdict::Drop(DropReason::PolicyEgress));
        assert_eq!(world.a_sends(world.b, syn(4001, 80))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
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
            world.a_sends(world.b, syn(4000, port))?;
            world.b_sends(world.a, tcp(port, 4000, flag::SYN | flag::ACK))?;
            world.a_sends(world.b, tcp(4000, port, flag::ACK))?;
        }
        world.programs.disallow(SET_B, CLASS, TCP, 80)?;
        assert_eq!(
            world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict,
            INTO_B,
            "not judged before the epoch"
        );
        world.programs.set_epoch(1)?;
        let cut = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(
            world.b_sends(world.a, tcp(80, 4000, flag::ACK))?.verdict,
            cut,
            "an answer is judged, too"
        );
        assert_eq!(world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict, cut);
        assert_eq!(world.b_sends(world.a, tcp(81, 4000, flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.a_sends(world.b, tcp(4000, 81, flag::ACK))?.verdict, INTO_B);
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
        assert_eq!(world.a_sends(world.vip, udp(4000, 80))?.verdict, INTO_B);
        world.programs.set_epoch(1)?;
        assert_eq!(world.b_sends(world.a, udp(8080, 4000))?.verdict, INTO_A, "still allowed");
        world.programs.disallow(SET_B, CLASS, UDP, 8080)?;
        world.programs.set_epoch(2)?;
        let cut = Verdict::Drop(DropReason::PolicyIngress);
        assert_eq!(world.b_sends(world.a, udp(8080, 4000))?.verdict, cut);
        assert_eq!(world.a_sends(world.vip, udp(4000, 80))?.verdict, cut);
        Ok(())
    })
}

#[test]
fn the_pods_own_node_reaches_it_and_gets_its_answers_under_default_deny() -> Result<()> {
    in_both_families(0, |world| {
        world.isolate(SET_DENY_ALL, SET_DENY_ALL, 0, 0)?;
        assert_eq!(world.to_a(world.outside, syn(4000, 80))?.verdict, Verdict::Pass);
        assert_eq!(
            world.a_sends(world.outside, tcp(80, 4000, flag::SYN | flag::ACK))?.verdict,
            Verdict::Pass
        );
        let denied = Verdict::Drop(DropReason::PolicyEgress);
        assert_eq!(world.a_sends(world.outside, syn(4001, 80))?.verdict, denied);
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
fn ping_follows_the_rules_that_name_no_port() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let (echo, reply) = if world.a.is_ipv4() { (8, 0) } else { (128, 129) };
        let ping = |kind| Transport::Icmp { kind, code: 0, rest: [0, 9, 0, 1], data: vec![1; 16] };
        assert_eq!(world.a_sends(world.b, ping(echo))?.verdict, INTO_B);
        world.isolate(SET_A, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        assert_eq!(world.a_sends(world.b, ping(echo))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
        world.isolate(SET_A, 0, 0, 0)?;
        assert_eq!(world.a_sends(world.b, ping(echo))?.verdict, INTO_B);
        assert_eq!(world.b_sends(world.a, ping(reply))?.verdict, INTO_A);
        Ok(())
    })
}
