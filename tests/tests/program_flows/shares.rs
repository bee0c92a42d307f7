//! One pod takes no room in conntrack from another, and no half of a flow is forgotten alone.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bpf_maps::Map;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtShare, half},
    maps::{CT_EST_MAX, CT_NEW_MAX, MapId},
    net::proto::{TCP, UDP},
    policy::SET_DENY_ALL,
    verdict::DropReason,
};
use harness::{
    packet::{Packet, flag},
    program::{
        NO_HOST, Verdict,
        fixture::{host_mac, pod_mac},
    },
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::{INTO_A, INTO_B, World, ends, in_both_families, syn, tcp, udp};

impl World<'_> {
    fn set_share(&self, interface: u32, established: u32) -> Result<()> {
        let share = CtShare { established_v4: established, established_v6: established, ..CtShare::NONE };
        Ok(self.programs.map(MapId::CT_SHARES).update(interface.as_bytes(), share.as_bytes())?)
    }

    /// Established entries of this family that count for an interface, and how often it was refused one.
    fn share(&self, interface: u32) -> Result<(u32, u32)> {
        let share = self.whole_share(interface)?;
        Ok((if self.a.is_ipv4() { share.established_v4 } else { share.established_v6 }, share.refused))
    }

    fn whole_share(&self, interface: u32) -> Result<CtShare> {
        let Some(value) = self.programs.map(MapId::CT_SHARES).lookup(interface.as_bytes())? else {
            return Ok(CtShare::NONE);
        };
        CtShare::read_from_bytes(&value).ok().context("a share")
    }

    /// Three packets of a flow from `a` to `b`.
    fn a_asks_b(&self, port: u16) -> Result<()> {
        assert_eq!(self.a_sends(self.b, udp(port, 53))?.verdict, INTO_B);
        assert_eq!(self.b_sends(self.a, udp(53, port))?.verdict, INTO_A);
        assert_eq!(self.a_sends(self.b, udp(port, 53))?.verdict, INTO_B);
        Ok(())
    }
}

#[test]
fn a_pod_may_have_as_many_established_flows_as_are_free_for_the_others() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        // Both tracked: `a` because it lets nobody in, `b` because it is the other end.
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        let [a, b] = [world.interfaces[0], world.interfaces[1]];
        world.set_share(0, CT_EST_MAX - 10)?;
        world.set_share(a, 10)?;
        world.a_asks_b(4000)?;
        assert_eq!(world.flows()?, (1, 0), "over its share, it may be evicted");
        assert_eq!(world.share(a)?, (10, 1));
        assert_eq!(world.b_sends(world.a, udp(53, 4000))?.verdict, INTO_A, "and it goes on");
        world.set_share(a, 9)?;
        world.a_asks_b(4001)?;
        assert_eq!((world.share(a)?, world.share(b)?), ((10, 0), (0, 0)), "who asks pays");
        assert_eq!(world.flows()?, (1, 1));
        Ok(())
    })
}

#[test]
fn what_one_pod_has_taken_leaves_room_for_the_first_flow_of_another() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        world.set_share(0, CT_EST_MAX / 2)?;
        world.set_share(world.interfaces[1], CT_EST_MAX / 2)?;
        world.a_asks_b(4000)?;
        assert_eq!(world.flows()?, (0, 1));
        Ok(())
    })
}

#[test]
fn entries_are_counted_while_they_are_established() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        let a = world.interfaces[0];
        world.programs.frontend((world.vip, 80, TCP), 0, &[(world.b, 8080)], 0)?;
        let a_says = |flags| world.a_sends(world.vip, tcp(4000, 80, flags));
        let b_says = |flags| world.b_sends(world.a, tcp(8080, 4000, flags));
        for _ in 0..2 {
            a_says(flag::SYN)?;
            b_says(flag::SYN | flag::ACK)?;
            assert_eq!(world.share(a)?.0, 0);
            a_says(flag::ACK)?;
            assert_eq!((world.share(a)?.0, world.share(0)?.0), (2, 2), "both halves");
            a_says(flag::FIN | flag::ACK)?;
            assert_eq!(world.share(a)?.0, 2, "half closed");
            b_says(flag::FIN | flag::ACK)?;
            assert_eq!((world.share(a)?.0, world.share(0)?.0), (0, 0), "closed");
        }
        // A SYN over an established flow that was reset takes its place.
        world.a_sends(world.vip, syn(4000, 80))?;
        b_says(flag::SYN | flag::ACK)?;
        a_says(flag::ACK)?;
        b_says(flag::RST)?;
        assert_eq!(world.share(a)?.0, 2, "a reset may be one that nobody takes");
        world.a_sends(world.vip, syn(4000, 80))?;
        assert_eq!((world.share(a)?.0, world.share(0)?.0), (0, 0));
        Ok(())
    })
}

/// Deletes the half that the backend's packets match, as an eviction does.
fn evict_backend_half(world: &World) -> Result<bool> {
    let map = world.programs.map(if world.a.is_ipv4() { MapId::CT_NEW_V4 } else { MapId::CT_NEW_V6 });
    for (key, value) in map.dump()? {
        let state = if world.a.is_ipv4() {
            CtEntryV4::read_from_bytes(&value).map(|entry| entry.state).ok()
        } else {
            CtEntryV6::read_from_bytes(&value).map(|entry| entry.state).ok()
        };
        if state.context("an entry")?.half == half::BACKEND {
            return Ok(map.delete(&key)?);
        }
    }
    Ok(false)
}

#[test]
fn datagrams_of_one_end_keep_both_halves_of_their_flow() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 53, UDP), 0, &[(world.b, 5353)], 0)?;
        assert_eq!(world.a_sends(world.vip, udp(4000, 53))?.verdict, INTO_B);
        ensure!(evict_backend_half(world)?, "there is a backend's half");
        // The other half is looked at once a jiffy.
        let begun = Instant::now();
        while world.flows()? != (2, 0) {
            ensure!(begun.elapsed() < Duration::from_secs(5), "the half of the backend does not come back");
            assert_eq!(world.a_sends(world.vip, udp(4000, 53))?.verdict, INTO_B);
        }
        assert_eq!(world.whole_share(world.interfaces[0])?.evicted, 1, "its pod is told");
        let answer = world.b_sends(world.a, udp(5353, 4000))?;
        assert_eq!(ends(&answer)?, (world.vip, 53, world.a, 4000));
        Ok(())
    })
}

/// Puts entries of flows that nobody has into a map.
fn fill(map: &Map, numbers: std::ops::Range<u32>) -> Result<()> {
    let info = map.info();
    let (key_size, value_size) = (info.key_size as usize, info.value_size as usize);
    let invented = |number: u32| {
        let mut key = vec![0xee; key_size];
        key[..4].copy_from_slice(number.as_bytes());
        (key, vec![0; value_size])
    };
    Ok(map.update_batch(&numbers.map(invented).collect::<Vec<_>>())?)
}

impl World<'_> {
    fn new_flows(&self) -> &Map {
        self.programs.map(if self.a.is_ipv4() { MapId::CT_NEW_V4 } else { MapId::CT_NEW_V6 })
    }

    fn established_flows(&self) -> &Map {
        self.programs.map(if self.a.is_ipv4() { MapId::CT_EST_V4 } else { MapId::CT_EST_V6 })
    }
}

#[test]
fn flows_go_on_without_room_in_a_map_that_is_full() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.isolate(SET_DENY_ALL, 0, 0, 0)?;
        let a = world.interfaces[0];
        // All but one; nobody has counted them.
        fill(world.established_flows(), 0..CT_EST_MAX - 1)?;
        world.a_asks_b(4000)?;
        assert_eq!((world.flows()?, world.share(a)?), ((0, CT_EST_MAX as usize), (1, 0)));
        world.a_asks_b(4001)?;
        assert_eq!(
            (world.flows()?, world.share(a)?),
            ((1, CT_EST_MAX as usize), (1, 1)),
            "refused and counted"
        );
        for port in [4000, 4001] {
            assert_eq!(world.b_sends(world.a, udp(53, port))?.verdict, INTO_A, "both go on");
        }
        Ok(())
    })
}

/// Keeps this thread on one CPU: a new entry of an LRU map is on a list of its CPU until that CPU needs room, and a flood on
/// another one does not reach it there.
fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

#[test]
fn what_a_pod_over_its_share_loses_in_a_flood_is_its_own() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        stay_on(0)?;
        world.isolate(SET_DENY_ALL, 0, SET_DENY_ALL, 0)?;
        world.programs.frontend((world.vip, 53, UDP), 0, &[(world.remote, 5353)], 0)?;
        // One flow of `b` from before; then `a` takes all that it gets.
        let b_says = || world.b_sends(world.vip, udp(5000, 53));
        let b_hears = || {
            let answer = Packet::new(world.remote, world.b, udp(5353, 5000)).between(host_mac(2), pod_mac(2));
            world.programs.to_pod(world.interfaces[1], &answer)
        };
        b_says()?;
        b_hears()?;
        b_says()?;
        assert_eq!(world.flows()?, (0, 2));
        let half = CT_EST_MAX / 2;
        fill(world.established_flows(), 0..half)?;
        world.set_share(0, half + 2)?;
        world.set_share(world.interfaces[0], half)?;
        let a_says = || world.a_sends(world.vip, udp(4000, 53));
        for _ in 0..2 {
            a_says()?;
            let answer = Packet::new(world.remote, world.a, udp(5353, 4000)).between(host_mac(1), pod_mac(1));
            world.programs.to_pod(world.interfaces[0], &answer)?;
        }
        assert_eq!(world.flows()?, (2, half as usize + 2), "no room for a flow of `a`");
        // It falls silent, and its own flood comes, of flows that are in use: the kernel evicts others first.
        let chunk = CT_NEW_MAX / 16;
        for number in 0..64 {
            for _ in 0..2 {
                fill(world.new_flows(), number * chunk..(number + 1) * chunk)?;
            }
        }
        let answer = Packet::new(world.remote, world.a, udp(5353, 4000)).between(host_mac(1), pod_mac(1));
        let lost = world.programs.to_pod(world.interfaces[0], &answer)?;
        assert_eq!(lost.verdict, Verdict::Drop(DropReason::PolicyIngress), "its flow is forgotten");
        let heard = b_hears()?;
        assert_eq!(ends(&heard)?, (world.vip, 53, world.b, 5000), "that of `b` is not");
        Ok(())
    })
}

#[test]
fn a_client_that_goes_on_sending_keeps_its_flow_through_a_flood() -> Result<()> {
    in_both_families(NO_HOST, |world| {
        world.programs.frontend((world.vip, 53, UDP), 0, &[(world.b, 5353)], 0)?;
        let chunk = CT_NEW_MAX / 16;
        for number in 0..64 {
            assert_eq!(world.a_sends(world.vip, udp(4000, 53))?.verdict, INTO_B);
            fill(world.new_flows(), number * chunk..(number + 1) * chunk)?;
        }
        // A half that was evicted in the last jiffy comes back with the next datagram of a later one.
        let begun = Instant::now();
        loop {
            assert_eq!(world.a_sends(world.vip, udp(4000, 53))?.verdict, INTO_B);
            let answer = world.b_sends(world.a, udp(5353, 4000))?;
            if ends(&answer)? == (world.vip, 53, world.a, 4000) {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(5), "the answers stay untranslated");
        }
    })
}
