//! The packets of a flow that exists, or of an ICMP error about one.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    conntrack::{CtState, half, zone},
    policy::Direction,
    verdict::DropReason,
};

use super::{Tables, judge_openers};
use crate::{
    config,
    flow::{Allowed, Scratch},
    global::global,
    packet::{self, Fragment, Kind},
    stage::{
        conntrack::{self, Hit, carrying, change, direct, find},
        icmp_error, nat, policy,
    },
};

/// What is known of a packet's flow.
#[derive(Clone, Copy)]
pub(super) enum Flow {
    New,
    /// Refreshed: only forwarding is left.
    Known,
    /// As `Known`, and the packet now goes to another address.
    Translated,
    /// It goes to a service that has no backend, or no such port, or to a pod that is gone: its sender is told.
    Unanswered,
    /// It has none, and may get one at any moment: it is to come once more.
    Awaited,
    /// New, and a translated flow has its two ends: what is opened gets another source port.
    Beside,
    Dropped(DropReason),
}

impl Flow {
    /// As a global function returns it.
    #[inline(always)]
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::New => 0,
            Self::Known => 1,
            Self::Translated => 2,
            Self::Unanswered => 3,
            Self::Beside => 4,
            Self::Awaited => 5,
            Self::Dropped(reason) => DROPPED + reason as u32,
        }
    }

    #[inline(always)]
    pub(super) fn of_code(code: u32) -> Self {
        match code {
            0 => Self::New,
            1 => Self::Known,
            2 => Self::Translated,
            3 => Self::Unanswered,
            4 => Self::Beside,
            5 => Self::Awaited,
            _ => Self::Dropped(DropReason::numbered(code - DROPPED).unwrap_or(DropReason::Truncated)),
        }
    }
}

/// The code of a dropped packet is its reason's number behind this.
const DROPPED: u32 = 256;

/// Looks for the flow of the packet, or of the packet that it quotes.
#[inline(always)]
pub(super) fn find_flow<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match (scratch.packet.kind, scratch.packet.fragment) {
        (_, Fragment::Orphan) => Flow::Dropped(DropReason::FragmentWithoutFirst),
        (Kind::IcmpError, Fragment::Whole) => related_flow::<F>(ctx, scratch),
        _ => known_flow::<F>(ctx, scratch),
    }
}

/// Conntrack → policy (once per epoch) → NAT.
#[inline(always)]
fn known_flow<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    let flow = Flow::of_code(found::<F>(scratch));
    if matches!(flow, Flow::New) && carrying::may_come(&scratch.packet) {
        return Flow::Awaited;
    }
    if scratch.changes != 0 {
        conntrack::change::<F>(scratch);
    }
    if matches!(flow, Flow::Translated)
        && let Err(reason) = nat::translate::<F>(ctx, scratch)
    {
        return Flow::Dropped(reason);
    }
    flow
}

global! {
    /// See [`in_its_zone`]: what [`advance`] says of the packet's flow.
    fn found() -> u32 = advance_in_its_zone, find_flow_v4, find_flow_v6
}

#[inline(always)]
fn advance_in_its_zone<F: Tables>(scratch: &mut Scratch<F::Addr>) -> u32 {
    in_its_zone::<F>(scratch, advanced::<F>)
}

/// Looks for a flow where most are, and then among those beside another flow: where one is in the way, or where there
/// is any, which is rare.
#[inline(always)]
fn in_its_zone<F: Tables>(
    scratch: &mut Scratch<F::Addr>,
    look: impl Fn(&mut Scratch<F::Addr>, u32) -> u32,
) -> u32 {
    const NEW: u32 = Flow::New.code();
    scratch.changes = 0;
    let code = look(scratch, u32::from(zone::POD));
    let is_nothing_found = code == NEW && scratch.changes == 0;
    if code == Flow::Beside.code() || (is_nothing_found && direct::is_in_use()) {
        let beside = look(scratch, u32::from(zone::DIRECT));
        if beside != NEW {
            direct::note();
            return beside;
        }
    }
    code
}

global! {
    /// See [`advance`].
    fn advanced(zone) -> u32 = advance, known_flow_v4, known_flow_v6
}

/// Everything but what is written to flow and packet: the code of what became of its flow.
#[inline(always)]
fn advance<F: Tables>(scratch: &mut Scratch<F::Addr>, zone: u32) -> u32 {
    advance_flow::<F>(scratch, zone).unwrap_or_else(Flow::Dropped).code()
}

#[inline(always)]
fn advance_flow<F: Tables>(scratch: &mut Scratch<F::Addr>, zone: u32) -> Result<Flow, DropReason> {
    let Some(hit) = find::<F>(&scratch.packet.tuple, zone, &mut scratch.state, &mut scratch.translation)
    else {
        return Ok(Flow::New);
    };
    // A SYN may open a flow over what has ended.
    let is_reopened = conntrack::is_reopened(&scratch.state, &scratch.packet);
    if hit.is_against(&scratch.state) && (!is_reopened || direct::is_in_use()) {
        return taken(&hit, zone);
    }
    let is_translated = scratch.state.half != half::PLAIN;
    let (mut changes, mut denied) = (0, None);
    if is_reopened {
        changes = change::FORGOTTEN;
    } else if is_stale(&scratch.state) {
        scratch.judged = scratch.packet.tuple;
        denied = judge_again::<F>(&hit, scratch, is_translated);
        changes =
            if denied.is_some() && scratch.packet.is_syn() { change::FORGOTTEN } else { change::JUDGED };
    }
    if changes != change::FORGOTTEN {
        let kept = hit.touch(&scratch.state);
        if denied.is_none() {
            changes |= kept | hit.changes(&scratch.packet, &scratch.state);
        }
    }
    if changes != 0 {
        scratch.changes = if hit.is_original { changes | change::IS_ORIGINAL } else { changes };
        if changes == change::FORGOTTEN {
            return Ok(Flow::New);
        }
    }
    if let Some(reason) = denied {
        return Err(reason);
    }
    Ok(if is_translated { Flow::Translated } else { Flow::Known })
}

/// What becomes of a packet whose two ends are those of another flow.
#[inline(always)]
fn taken<F: Tables>(hit: &Hit<F>, zone: u32) -> Result<Flow, DropReason> {
    match (zone == u32::from(zone::POD), hit.is_original) {
        (false, _) => Ok(Flow::New),
        (true, true) => Ok(Flow::Beside),
        // It travels as if it came from the frontend of that flow.
        (true, false) => Err(DropReason::NatPortsExhausted),
    }
}

/// Whether a flow is to be judged once more. A denied one is each time: what allows more raises no epoch.
#[inline(always)]
fn is_stale(state: &CtState) -> bool {
    config::cut_established() && (state.denied != 0 || state.epoch != policy::epoch())
}

/// Judges the flow of the packet `scratch.judged`, because policy denied it or policies changed since. Notes in the
/// scratch memory what its entry is to remember, and tells why it is denied.
#[inline(always)]
fn judge_again<F: Tables>(
    hit: &Hit<F>,
    scratch: &mut Scratch<F::Addr>,
    is_translated: bool,
) -> Option<DropReason> {
    // Client to backend, with the addresses of pods: one end is in the packet, the other in the translation.
    let new = &scratch.translation;
    let original = &mut scratch.judged;
    if !hit.is_original {
        *original = original.reversed();
    }
    if is_translated && hit.is_original {
        original.destination = new.destination;
        original.destination_port = new.destination_port;
    } else if is_translated {
        original.source = new.destination;
        original.source_port = new.destination_port;
    }
    let reason = match judge_by_origin::<F>(scratch) {
        Ok(allowed) => {
            scratch.state.denied = 0;
            scratch.state.egress_rule = allowed.egress_rule;
            scratch.state.ingress_rule = allowed.ingress_rule;
            return None;
        }
        Err(reason) => reason,
    };
    if matches!(reason, DropReason::PolicyEgress) {
        scratch.state.denied = Direction::Egress as u8;
        scratch.state.egress_rule = scratch.denied_by;
    } else {
        scratch.state.denied = Direction::Ingress as u8;
        scratch.state.ingress_rule = scratch.denied_by;
    }
    Some(if scratch.state.mid_stream != 0 { DropReason::MidStream } else { reason })
}

/// Judges `scratch.judged` by what is known of who opened it.
#[inline(always)]
fn judge_by_origin<F: Tables>(scratch: &mut Scratch<F::Addr>) -> Result<Allowed, DropReason> {
    let is_from_host = scratch.state.from_host != 0;
    let is_mid_stream = scratch.state.mid_stream != 0;
    if is_from_host {
        // The host may reach its pods: what is left to ask is whether the pod may have opened it.
        scratch.judged = scratch.judged.reversed();
        scratch.epoch = policy::epoch();
        if !is_mid_stream {
            return Ok(Allowed::NO_RULE);
        }
    }
    judge_openers::<F>(scratch, is_mid_stream && !is_from_host)
}

/// An ICMP error about a flow that exists passes with it.
#[inline(never)]
fn related_flow<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match related::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn related<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    let embedded = packet::embedded::<F>(ctx, &scratch.packet)?;
    scratch.judged = embedded.tuple.reversed();
    let found = Flow::of_code(in_its_zone::<F>(scratch, quoted::<F>));
    // No flow is quoted that only could be.
    let flow = if matches!(found, Flow::Beside) { Flow::New } else { found };
    if matches!(flow, Flow::Translated) {
        icmp_error::translate::<F>(ctx, scratch, &embedded)?;
    }
    Ok(flow)
}

global! {
    /// See [`find_quoted`].
    fn quoted(zone) -> u32 = find_quoted, quoted_flow_v4, quoted_flow_v6
}

/// The code of the flow that an ICMP error is related to: an error travels as `scratch.judged` does, the answer to the
/// packet that it quotes.
#[inline(always)]
fn find_quoted<F: Tables>(scratch: &mut Scratch<F::Addr>, zone: u32) -> u32 {
    relate::<F>(scratch, zone).unwrap_or_else(Flow::Dropped).code()
}

/// Only who sent the quoted packet learns of it, and of pods only the one that it was sent to may tell: pods are no
/// routers. Anything else is a message of its own.
#[inline(always)]
fn relate<F: Tables>(scratch: &mut Scratch<F::Addr>, zone: u32) -> Result<Flow, DropReason> {
    let (sender, answer) = (&scratch.packet.tuple, &scratch.judged);
    if sender.destination != answer.destination {
        return Ok(Flow::New);
    }
    if sender.source != answer.source && is_pod::<F>(&sender.source) {
        return Ok(Flow::New);
    }
    let Some(hit) = find::<F>(answer, zone, &mut scratch.state, &mut scratch.translation) else {
        return Ok(Flow::New);
    };
    if hit.is_against(&scratch.state) {
        return taken(&hit, zone);
    }
    let is_translated = scratch.state.half != half::PLAIN;
    if is_stale(&scratch.state) && judge_again::<F>(&hit, scratch, is_translated).is_some() {
        // Not a packet of the flow: nothing of it is remembered, and it is not counted as denied.
        return Err(DropReason::UnrelatedIcmpError);
    }
    Ok(if is_translated { Flow::Translated } else { Flow::Known })
}

/// Whether an address is that of a pod, of this node or of another.
#[inline(always)]
fn is_pod<F: Tables>(addr: &F::Addr) -> bool {
    F::endpoint(addr).is_some() || F::route(addr).is_some()
}
