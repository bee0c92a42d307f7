//! The packets of a flow that exists, or of an ICMP error about one.
use aya_ebpf::programs::TcContext;
use dataplane_common::verdict::DropReason;

use super::judge;
use crate::{
    config,
    flow::{Allowed, Scratch},
    packet::{self, Fragment, Kind, Parse},
    stage::{
        conntrack::{self, Hit},
        icmp_error, nat,
    },
};

/// What is known of a packet's flow. It fits in one register: a `Result` of two parts would leave one undefined when
/// it returns from a subprogram, and the verifier refuses arithmetic on what happens to be there.
#[derive(Clone, Copy)]
pub(super) enum Flow {
    New,
    /// Refreshed: only forwarding is left.
    Known,
    /// As `Known`, and the packet now goes to another address.
    Translated,
    /// It goes to a service that has no backend.
    WithoutBackend,
    Dropped(DropReason),
}

/// Looks for the flow of the packet, or of the packet that it quotes.
#[inline(always)]
pub(super) fn find_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match (scratch.packet.kind, scratch.packet.fragment) {
        (_, Fragment::Orphan) => Flow::Dropped(DropReason::FragmentWithoutFirst),
        (Kind::IcmpError, Fragment::Whole) => related_flow::<F>(ctx, scratch),
        _ => known_flow::<F>(ctx, scratch),
    }
}

/// Conntrack → policy (once per epoch) → NAT.
#[inline(never)]
fn known_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match advance_flow::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn advance_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    let Some(hit) = conntrack::find::<F>(&scratch.packet.tuple) else {
        return Ok(Flow::New);
    };
    if conntrack::is_reopened(&hit, &scratch.packet) {
        hit.cut();
        return Ok(Flow::New);
    }
    let is_translated = hit.translate(scratch)?;
    if config::cut_established() && hit.state().epoch != conntrack::policy_epoch() {
        judge_again::<F>(&hit, scratch, is_translated)?;
    }
    hit.advance(&scratch.packet);
    if is_translated {
        nat::translate::<F>(ctx, scratch)?;
        return Ok(Flow::Translated);
    }
    Ok(Flow::Known)
}

/// An established flow meets policies that changed since it was judged: it is judged once more, and cut if denied.
#[inline(never)]
fn judge_again<F: Parse>(
    hit: &Hit<F>,
    scratch: &mut Scratch<F::Addr>,
    is_translated: bool,
) -> Result<(), DropReason> {
    let mut allowed = Allowed::NO_RULE;
    if hit.state().from_host == 0 {
        // Client to backend, with the addresses of pods: one end is in the packet, the other in the translation.
        let (packet, new) = (&scratch.packet.tuple, &scratch.translation);
        let mut original = if hit.is_original { *packet } else { packet.reversed() };
        if is_translated && hit.is_original {
            original.destination = new.destination;
            original.destination_port = new.destination_port;
        } else if is_translated {
            original.source = new.destination;
            original.source_port = new.destination_port;
        }
        scratch.judged = original;
        match judge::<F>(scratch) {
            Ok(rules) => allowed = rules,
            Err(reason) => {
                hit.cut();
                return Err(reason);
            }
        }
    }
    hit.set_judged(allowed);
    Ok(())
}

/// An ICMP error about a flow that exists passes with it.
#[inline(never)]
fn related_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match related::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn related<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    let embedded = packet::embedded::<F>(ctx, &scratch.packet)?;
    let Some(hit) = conntrack::find_quoted::<F>(&embedded.tuple) else {
        return Ok(Flow::New);
    };
    if hit.translate(scratch)? {
        icmp_error::translate::<F>(ctx, scratch, &embedded)?;
        return Ok(Flow::Translated);
    }
    Ok(Flow::Known)
}
