//! A flow that policy revoked stays closed whoever speaks next, and comes back when it is allowed again.
use anyhow::Result;
use dataplane_common::{
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    verdict::DropReason,
};
use harness::{
    packet::{Transport, flag},
    program::{NO_HOST, Verdict},
};

use crate::{CLASS, INTO_A, INTO_B, RULE, SET_A, SET_B, World, in_both_families, syn, tcp, udp};

const BY_INGRESS: Verdict = Verdict::Drop(DropReason::PolicyIngress);
const BY_EGRESS: Verdict = Verdict::Drop(DropReason::PolicyEgress);

/// A flow from `a` to port 80 of `b`, as far as its third packet.
fn open(world: &World, proto: u8, to: std::net::IpAddr, port: u16) -> Result<()> {
    if proto == UDP {
        assert_eq!(world.a_sends(to, udp(4000, 80))?.verdict, INTO_B);
        assert_eq!(world.b_sends(world.a, udp(port, 4000))?.verdict, INTO_A);
        assert_eq!(world.a_sends(to, udp(4000, 80))?.verdict, INTO_B);
    } else {
        assert_eq!(world.a_sends(to, syn(4000, 80))?.verdict, INTO_B);
        assert_eq!(world.b_sends(world.a, tcp(port, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.a_sends(to, tcp(4000, 80, flag::ACK))?.verdict, INTO_B);
    }
    Ok(())
}

fn data(proto: u8, source: u16, destination: u16) -> Transport {
    if proto == UDP { udp(source, destination) } else { tcp(source, destination, flag::ACK) }
}

#[test]
fn what_the_server_streams_does_not_turn_a_revoked_flow_round() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for proto in [TCP, UDP] {
            for by_service in [false, true] {
                for by_ingress in [true, false] {
                    world.programs.forget_flows()?;
                    let set = if by_ingress { SET_B } else { SET_A };
                    world.isolate(
                        0,
                        if by_ingress { 0 } else { set },
                        if by_ingress { set } else { 0 },
                        0,
                    )?;
                    world.programs.class(if by_ingress { world.a } else { world.b }, CLASS)?;
                    let port = if by_service { 8080 } else { 80 };
                    world.programs.allow(set, CLASS, proto, port, RULE)?;
                    world.programs.frontend((world.vip, 80, proto), 0, &[(world.b, 8080)], 0)?;
                    let to = if by_service { world.vip } else { world.b };
                    world.next_epoch()?;
                    open(world, proto, to, port)?;
                    world.programs.disallow(set, CLASS, proto, port)?;
                    world.next_epoch()?;
                    let denied = if by_ingress { BY_INGRESS } else { BY_EGRESS };
                    let what = format!("{proto} by service {by_service} by ingress {by_ingress}");
                    for _ in 0..4 {
                        let streamed = world.b_sends(world.a, data(proto, port, 4000))?;
                        assert_eq!(streamed.verdict, denied, "the server streams: {what}");
                        let asked = world.a_sends(to, data(proto, 4000, 80))?;
                        assert_eq!(asked.verdict, denied, "the client sends: {what}");
                    }
                    // Another change that does not concern it: judged once more, and denied once more.
                    world.next_epoch()?;
                    assert_eq!(world.b_sends(world.a, data(proto, port, 4000))?.verdict, denied, "{what}");
                    assert_eq!(world.a_sends(to, data(proto, 4000, 80))?.verdict, denied, "{what}");
                    world.programs.allow(set, CLASS, proto, port, RULE)?;
                    world.next_epoch()?;
                    let streamed = world.b_sends(world.a, data(proto, port, 4000))?;
                    assert_eq!(streamed.verdict, INTO_A, "allowed again: {what}");
                    assert_eq!(world.a_sends(to, data(proto, 4000, 80))?.verdict, INTO_B, "{what}");
                    world.programs.disallow(set, CLASS, proto, port)?;
                    world.next_epoch()?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_syn_over_a_denied_flow_is_judged_as_the_new_one_that_it_opens() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        for by_service in [false, true] {
            world.programs.forget_flows()?;
            world.isolate(0, 0, SET_B, 0)?;
            world.programs.class(world.a, CLASS)?;
            let port = if by_service { 8080 } else { 80 };
            world.programs.allow(SET_B, CLASS, TCP, port, RULE)?;
            world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
            let to = if by_service { world.vip } else { world.b };
            open(world, TCP, to, port)?;
            world.programs.disallow(SET_B, CLASS, TCP, port)?;
            world.next_epoch()?;
            assert_eq!(world.a_sends(to, tcp(4000, 80, flag::ACK))?.verdict, BY_INGRESS);
            assert_eq!(world.a_sends(to, syn(4000, 80))?.verdict, BY_INGRESS);
            let streamed = world.b_sends(world.a, tcp(port, 4000, flag::ACK))?.verdict;
            assert!(matches!(streamed, Verdict::Drop(_)), "{streamed:?}");
            let sent = world.a_sends(to, tcp(4000, 80, flag::ACK))?.verdict;
            let is_closed = matches!(sent, Verdict::Drop(_) | Verdict::Reject);
            assert!(is_closed, "{sent:?}");
            // No epoch: the SYN asks the policies themselves.
            world.programs.allow(SET_B, CLASS, TCP, port, RULE)?;
            open(world, TCP, to, port)?;
            world.programs.disallow(SET_B, CLASS, TCP, port)?;
        }
        Ok(())
    })
}

#[test]
fn a_segment_without_a_flow_opens_none_in_the_direction_it_happens_to_travel() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let mid_stream = Verdict::Drop(DropReason::MidStream);
        world.isolate(0, 0, SET_DENY_ALL, 0)?;
        let (ack, fin, rst) = (flag::ACK, flag::FIN | flag::ACK, flag::RST);
        for flags in [ack, fin, rst, rst | ack, flag::SYN | ack, 0, flag::PSH] {
            assert_eq!(world.b_sends(world.a, tcp(80, 4000, flags))?.verdict, mid_stream, "{flags:#x}");
            assert_eq!(world.a_sends(world.b, tcp(4000, 80, flags))?.verdict, mid_stream, "{flags:#x}");
        }
        assert_eq!(world.flows()?, (0, 0));
        // A server that may open connections itself does it with a SYN.
        assert_eq!(world.b_sends(world.a, syn(5000, 81))?.verdict, INTO_A);
        world.programs.forget_flows()?;
        // Through the stack: a peer of another node.
        world.isolate(SET_A, 0, 0, 0)?;
        assert_eq!(world.a_sends(world.remote, tcp(80, 4000, ack))?.verdict, mid_stream);
        assert_eq!(world.to_a(world.remote, tcp(4000, 80, ack))?.verdict, mid_stream);
        assert_eq!(world.flows()?, (0, 0));
        Ok(())
    })
}

#[test]
fn a_connection_older_than_the_first_policy_goes_on_only_while_either_end_may_have_opened_it() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_A, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.class(world.b, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        world.programs.allow(SET_A, CLASS, TCP, 4000, RULE)?;
        assert_eq!(world.b_sends(world.a, tcp(80, 4000, flag::ACK))?.verdict, INTO_A);
        assert_eq!(world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict, INTO_B);
        // The server spoke first, but that it opened the connection is not known: either direction cuts it.
        for (set, port) in [(SET_B, 80), (SET_A, 4000)] {
            world.programs.disallow(set, CLASS, TCP, port)?;
            world.next_epoch()?;
            let mid_stream = Verdict::Drop(DropReason::MidStream);
            assert_eq!(world.b_sends(world.a, tcp(80, 4000, flag::ACK))?.verdict, mid_stream);
            assert_eq!(world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict, mid_stream);
            world.programs.allow(set, CLASS, TCP, port, RULE)?;
            world.next_epoch()?;
            assert_eq!(world.b_sends(world.a, tcp(80, 4000, flag::ACK))?.verdict, INTO_A);
            assert_eq!(world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict, INTO_B);
        }
        Ok(())
    })
}

#[test]
fn a_connection_with_the_own_node_that_the_pod_may_not_have_opened_ends_with_the_first_policy() -> Result<()>
{
    in_both_families(0, |world| {
        // Egress denied: the pod may have opened it, and then its node's answers are answers to a forbidden flow.
        world.isolate(0, SET_DENY_ALL, 0, 0)?;
        let mid_stream = Verdict::Drop(DropReason::MidStream);
        assert_eq!(world.to_a(world.outside, tcp(4000, 80, flag::ACK))?.verdict, mid_stream);
        assert_eq!(world.a_sends(world.outside, tcp(80, 4000, flag::ACK))?.verdict, mid_stream);
        // Ingress denied: whoever opened it, it is allowed.
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        assert_eq!(world.to_a(world.outside, tcp(4000, 80, flag::ACK))?.verdict, Verdict::Pass);
        assert_eq!(world.a_sends(world.outside, tcp(80, 4000, flag::ACK))?.verdict, Verdict::Pass);
        Ok(())
    })
}

#[test]
fn a_segment_to_a_frontend_without_a_flow_is_reset_and_opens_nothing() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        for flags in [flag::ACK, flag::FIN | flag::ACK, flag::SYN | flag::ACK] {
            let run = world.a_sends(world.vip, tcp(4000, 80, flags))?;
            assert_eq!(run.verdict, Verdict::Reject, "{flags:#x}");
        }
        let reset = world.a_sends(world.vip, tcp(4000, 80, flag::RST))?.verdict;
        assert_eq!(reset, Verdict::Drop(DropReason::MidStream), "a reset is not answered by one");
        assert_eq!(world.flows()?, (0, 0));
        assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, INTO_B);
        Ok(())
    })
}
