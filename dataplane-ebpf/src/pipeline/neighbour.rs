//! ARP and neighbour discovery from a pod: judged, answered, and never passed on.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    net::AddrV6,
    verdict::{DropReason, Verdict},
};

use crate::{
    packet::{self, Packet, neighbour},
    stage::neighbour::{Hearing, hear, hear_arp},
};

/// What is left to do. It fits in one register: see [`super::known::Flow`].
enum Done {
    Answered,
    Heard,
    Dropped(DropReason),
}

#[inline(always)]
pub(super) fn arp(ctx: &TcContext) -> Result<Verdict, DropReason> {
    verdict(ctx, &arp_done(ctx))
}

#[inline(always)]
pub(super) fn discovery(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<Verdict, DropReason> {
    verdict(ctx, &discovery_done(ctx, packet))
}

#[inline(always)]
fn verdict(ctx: &TcContext, done: &Done) -> Result<Verdict, DropReason> {
    match done {
        Done::Answered => Ok(Verdict::Answer { ifindex: packet::ifindex(ctx) }),
        Done::Heard => Ok(Verdict::Heard),
        Done::Dropped(reason) => Err(*reason),
    }
}

#[inline(never)]
fn arp_done(ctx: &TcContext) -> Done {
    done(neighbour::arp(ctx).and_then(|arp| match hear_arp(ctx, &arp)? {
        Hearing::Answer(mac) => neighbour::answer_arp(ctx, &arp, mac).map(|()| Done::Answered),
        Hearing::Heard => Ok(Done::Heard),
    }))
}

#[inline(never)]
fn discovery_done(ctx: &TcContext, packet: &Packet<AddrV6>) -> Done {
    done(hear(ctx, packet).and_then(|hearing| match hearing {
        Hearing::Answer(mac) => neighbour::answer_solicitation(ctx, packet, mac).map(|()| Done::Answered),
        Hearing::Heard => Ok(Done::Heard),
    }))
}

#[inline(always)]
fn done(result: Result<Done, DropReason>) -> Done {
    match result {
        Ok(done) => done,
        Err(reason) => Done::Dropped(reason),
    }
}
