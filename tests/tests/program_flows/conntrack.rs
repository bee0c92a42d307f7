//! How flows are promoted, closed and opened again.
use anyhow::{Context as _, Result, ensure};
use bpf_maps::Entry;
use dataplane_common::{maps::MapId, net::proto::TCP, verdict::DropReason};
use harness::{
    packet::flag,
    program::{NO_HOST, Verdict},
};

use crate::{
    CLASS, INTO_A, INTO_B, RULE, SET_B, fragments::up, from_netdev, in_both_families, syn, tcp, udp,
};

#[test]
fn a_flow_is_established_by_its_third_packet_and_leaves_when_it_ends() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        world.a_sends(world.b, syn(4000, 80))?;
        world.b_sends(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(world.flows()?, (1, 0), "a SYN that was answered is not established");
        world.a_sends(world.b, tcp(4000, 80, flag::ACK))?;
        assert_eq!(world.flows()?, (0, 1));
        assert_eq!(world.established()?[0].ingress_rule, RULE);
        world.a_sends(world.b, tcp(4000, 80, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (0, 1), "half closed");
        world.b_sends(world.a, tcp(80, 4000, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (1, 0));
        assert_eq!(world.a_sends(world.b, tcp(4000, 80, flag::ACK))?.verdict, INTO_B, "the last ACK passes");
        assert_eq!(world.flows()?, (1, 0), "and does not bring it back");
        Ok(())
    })
}

#[test]
fn a_packet_against_the_translation_of_its_ends_does_not_pass() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.a_sends(world.vip, syn(4000, 80))?;
        // Somebody plays the service towards its client, and the client speaks to the backend past the service.
        for flags in [flag::SYN | flag::ACK, flag::ACK] {
            let forged = world.to_a(world.vip, tcp(80, 4000, flags))?;
            assert_eq!(forged.verdict, Verdict::Drop(DropReason::NatPortsExhausted));
            let past = world.a_sends(world.b, tcp(4000, 8080, flags))?;
            assert_eq!(past.verdict, Verdict::Drop(DropReason::NatPortsExhausted));
        }
        Ok(())
    })
}

#[test]
fn an_element_that_another_flow_has_taken_is_not_this_flows() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        world.a_sends(world.b, syn(4000, 80))?;
        let map = world.programs.map(if world.a.is_ipv4() { MapId::CT_NEW_V4 } else { MapId::CT_NEW_V6 });
        let (key, mut value) = map.dump()?.pop().context("a flow")?;
        // From now on only what is known passes.
        world.programs.disallow(SET_B, CLASS, TCP, 80)?;
        assert_eq!(world.b_sends(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?.verdict, INTO_A);
        // The tag is what comes first in an entry.
        value[0] ^= 1;
        map.update(&key, &value)?;
        let answer = world.b_sends(world.a, tcp(80, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(answer.verdict, Verdict::Drop(DropReason::MidStream));
        Ok(())
    })
}

#[test]
fn both_halves_of_a_translated_flow_are_promoted_and_closed_together() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.a_sends(world.vip, syn(4000, 80))?;
        world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
        assert_eq!(world.flows()?, (2, 0));
        world.a_sends(world.vip, tcp(4000, 80, flag::ACK))?;
        assert_eq!(world.flows()?, (0, 2));
        world.a_sends(world.vip, tcp(4000, 80, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (0, 2), "half closed");
        world.b_sends(world.a, tcp(8080, 4000, flag::FIN | flag::ACK))?;
        assert_eq!(world.flows()?, (2, 0));
        Ok(())
    })
}

#[test]
fn a_reset_that_its_receiver_does_not_take_leaves_the_flow_as_it_was() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 8080, RULE)?;
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        for (to, entries, port) in [(world.b, 1, 8080), (world.vip, 2, 80)] {
            world.programs.forget_flows()?;
            world.a_sends(to, syn(4000, port))?;
            world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
            world.a_sends(to, tcp(4000, port, flag::ACK))?;
            for by_client in [true, false] {
                if by_client {
                    world.a_sends(to, tcp(4000, port, flag::RST))?;
                } else {
                    world.b_sends(world.a, tcp(8080, 4000, flag::RST))?;
                }
                assert_eq!(world.flows()?, (0, entries), "not where it may be evicted");
                assert!(world.established()?.iter().all(|state| state.reset == 1));
                assert_eq!(world.b_sends(world.a, tcp(8080, 4000, flag::ACK))?.verdict, INTO_A);
                assert_eq!(world.a_sends(to, tcp(4000, port, flag::ACK))?.verdict, INTO_B);
                assert!(world.established()?.iter().all(|state| state.reset == 0), "it lives on");
            }
        }
        Ok(())
    })
}

#[test]
fn a_flow_is_marked_in_place_and_only_while_it_has_the_backend_that_is_gone() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.a_sends(world.vip, syn(4000, 80))?;
        world.b_sends(world.a, tcp(8080, 4000, flag::SYN | flag::ACK))?;
        world.a_sends(world.vip, tcp(4000, 80, flag::ACK))?;
        let map = world.programs.map(if world.a.is_ipv4() { MapId::CT_EST_V4 } else { MapId::CT_EST_V6 });
        let before = map.dump()?;
        for (key, _) in &before {
            for other in [(world.b, 8081), (world.a, 8080)] {
                ensure!(!world.programs.mark_backend_gone(key, other.into())?, "it has another backend");
            }
        }
        assert_eq!(map.dump()?, before);
        // Of the two halves, the one that a SYN of the client meets.
        let marked = before.iter().filter_map(|(key, _)| {
            world.programs.mark_backend_gone(key, (world.b, 8080).into()).ok().filter(|marked| *marked)
        });
        assert_eq!(marked.count(), 1);
        let after = world.established()?;
        assert_eq!(after.iter().map(|state| u32::from(state.backend_gone)).sum::<u32>(), 1);
        let bytes =
            |entries: Vec<Entry>| entries.into_iter().flat_map(|(_, value)| value).collect::<Vec<u8>>();
        let (old, new) = (bytes(before.clone()), bytes(map.dump()?));
        assert_eq!(old.iter().zip(&new).filter(|(old, new)| old != new).count(), 1, "one byte changes");
        assert_eq!(world.a_sends(world.vip, tcp(4000, 80, flag::ACK))?.verdict, INTO_B, "it goes on");
        world.programs.frontend((world.vip, 80, TCP), 8, &[(world.remote, 8080)], 0)?;
        world.a_sends(world.vip, syn(4000, 80))?;
        for (key, _) in &before {
            ensure!(
                !world.programs.mark_backend_gone(key, (world.b, 8080).into())?,
                "it has left its backend"
            );
        }
        Ok(())
    })
}

#[test]
fn a_syn_over_a_closed_flow_opens_a_new_one_and_chooses_again() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        world.a_sends(world.vip, syn(4000, 80))?;
        world.programs.frontend((world.vip, 80, TCP), 8, &[(world.remote, 8080)], 0)?;
        assert_eq!(
            world.a_sends(world.vip, syn(4000, 80))?.verdict,
            INTO_B,
            "a repeated SYN keeps its backend"
        );
        world.b_sends(world.a, tcp(8080, 4000, flag::RST))?;
        assert_eq!(world.a_sends(world.vip, syn(4000, 80))?.verdict, Verdict::Forward);
        Ok(())
    })
}

#[test]
fn while_flows_are_carried_over_what_has_none_waits_and_what_opens_one_does_not() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        up()?;
        world.isolate(0, 0, SET_B, 0)?;
        world.programs.class(world.a, CLASS)?;
        world.programs.allow(SET_B, CLASS, TCP, 80, RULE)?;
        let carrying = world.programs.map(MapId::CARRYING_OVER);
        let until = |time: u64| carrying.update(&0_u32.to_ne_bytes(), &time.to_ne_bytes());
        until(u64::MAX)?;
        let answer = || world.b_sends(world.a, tcp(80, 4000, flag::SYN | flag::ACK));
        assert_eq!(answer()?.verdict, Verdict::Held);
        assert_eq!(world.a_sends(world.b, udp(4000, 80))?.verdict, Verdict::Held);
        assert_eq!(world.flows()?, (0, 0));
        // As if it had been carried over.
        assert_eq!(world.a_sends(world.b, syn(4000, 80))?.verdict, INTO_B);
        assert_eq!(answer()?.verdict, INTO_A);
        // What comes from another node waits at the uplink.
        let from_afar = from_netdev::packet(world.remote, world.b, udp(4000, 80));
        assert_eq!(from_netdev::arrives(world, &from_afar)?.verdict, Verdict::Held);
        // An agent that died leaves a time that passes.
        until(1)?;
        assert_eq!(world.a_sends(world.b, udp(4000, 80))?.verdict, Verdict::Drop(DropReason::PolicyIngress));
        assert_eq!(
            world.b_sends(world.a, tcp(81, 4000, flag::ACK))?.verdict,
            Verdict::Drop(DropReason::MidStream)
        );
        Ok(())
    })
}
