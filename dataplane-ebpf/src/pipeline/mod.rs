//! The order of stages, one file per hook. Read [`from_pod`] first.
//!
//! parse → anti-spoof → conntrack → service → policy → NAT → forward. A flow that is known skips what only a new
//! one needs; a flow that no policy and no service touches skips conntrack, too. What the hooks share: [`known`], for
//! packets of flows that exist, and [`opening`], for the first packet of a flow.
mod from_netdev;
mod from_pod;
mod known;
mod neighbour;
mod opening;
mod to_netdev;
mod to_pod;

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    policy::Direction,
    verdict::{DropReason, Hook, Verdict},
};

pub(crate) use self::{
    from_netdev::from_netdev,
    from_pod::from_pod,
    to_netdev::{is_forwarded, to_netdev},
    to_pod::to_pod,
};
use crate::{
    family::{V4, V6},
    flow::{Allowed, Scratch},
    observe,
    packet::{self, Fragment, Parse},
    stage::{
        fragment::{self, Order},
        policy,
    },
    tables::{Endpoints, Flows, Policies, Routes, Services},
};

/// All that the hooks of packets read and write. Fragments come with parsing.
pub(super) trait Tables: Parse + Endpoints + Services + Policies + Routes + Flows {}

impl Tables for V4 {}
impl Tables for V6 {}

/// The endpoint of a local pod's address.
#[inline(always)]
fn local_pod<F: Tables>(addr: &F::Addr) -> EndpointValue {
    match F::endpoint(addr) {
        // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
        Some(endpoint) => unsafe { *endpoint },
        None => EndpointValue::ABSENT,
    }
}

/// Runs a pipeline in this CPU's working memory and remembers which flow policy denied.
#[inline(always)]
fn observed<F: Tables>(
    pipeline: impl FnOnce(&mut Scratch<F::Addr>) -> Result<Verdict, DropReason>,
) -> Result<Verdict, DropReason> {
    let Some(scratch) = F::scratch() else {
        // Impossible for slot 0 of an array, but the verifier wants it handled.
        return Err(DropReason::Truncated);
    };
    // SAFETY: per-CPU memory, used by one program run at a time, and every field is written before it is read.
    let scratch = unsafe { &mut *scratch };
    let verdict = pipeline(scratch);
    match verdict {
        Err(DropReason::PolicyEgress) => observe::denied::<F>(scratch, Direction::Egress),
        Err(DropReason::PolicyIngress) => observe::denied::<F>(scratch, Direction::Ingress),
        _ => {}
    }
    verdict
}

/// Puts a fragment in its place: `None` when it is its turn, else what becomes of it.
#[inline(always)]
fn wait_for_first<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    hook: Hook,
    ifindex: u32,
    is_from_host: bool,
    holds: bool,
) -> Result<Option<Verdict>, DropReason> {
    if scratch.packet.fragment == Fragment::Whole {
        return Ok(None);
    }
    match fragment::put_in_order::<F>(ctx, scratch, hook, ifindex, is_from_host, holds) {
        Order::Go => Ok(None),
        Order::Held => Ok(Some(Verdict::Held)),
        Order::Dropped(reason) => Err(reason),
    }
}

/// Has a packet come through a hook on ingress once more.
#[inline(always)]
fn come_again(ctx: &TcContext) -> Verdict {
    // A copy that finds no room is lost, as from any queue that is full.
    let _sent = packet::fragment::send_again(ctx, false);
    Verdict::Held
}

/// Judges `scratch.judged` by the sets of whichever of its ends are local pods. Where it is not known which end opened
/// the flow, both must be allowed to.
#[inline(always)]
fn judge_openers<F: Tables>(scratch: &mut Scratch<F::Addr>, both: bool) -> Result<Allowed, DropReason> {
    let epoch = policy::epoch();
    let mut allowed = Allowed::NO_RULE;
    let mut ways = if both { 2 } else { 1 };
    while ways > 0 {
        let egress_set = local_pod::<F>(&scratch.judged.source).egress_set;
        let ingress_set = local_pod::<F>(&scratch.judged.destination).ingress_set;
        allowed = policy::judge::<F>(scratch, egress_set, ingress_set)?;
        ways -= 1;
        if ways > 0 {
            scratch.judged = scratch.judged.reversed();
        }
    }
    scratch.epoch = epoch;
    Ok(allowed)
}
