//! What reaches a pod through the host's stack.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    verdict::{DropReason, Hook, Verdict},
};

use super::{
    Tables,
    known::{Flow, find_flow},
    local_pod, observed,
    opening::{judge_and_open, open_from_host},
    wait_for_first,
};
use crate::{
    config,
    family::{V4, V6},
    flow::Scratch,
    packet::{self, Kind, ethertype},
};

/// What reaches a pod through the host's stack: from this host, from other nodes, from outside.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> Result<Verdict, DropReason> {
    match packet::protocol(ctx) {
        ethertype::IPV4 => observed::<V4>(|scratch| to_pod_ip::<V4>(ctx, scratch)),
        ethertype::IPV6 => observed::<V6>(|scratch| to_pod_ip::<V6>(ctx, scratch)),
        _ => Ok(Verdict::Pass),
    }
}

#[inline(always)]
fn to_pod_ip<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
    F::parse(ctx, &mut scratch.packet)?;
    let is_from_host = packet::ingress_ifindex(ctx) == config::host_ingress_ifindex();
    match scratch.packet.kind {
        Kind::Flow | Kind::IcmpError => {}
        // The node speaks to its pods' links; nobody else does, and nothing of it is routed.
        Kind::Link | Kind::Forbidden if is_from_host => return Ok(Verdict::Pass),
        Kind::Link => return Err(DropReason::NeighbourElsewhere),
        Kind::Forbidden => return Err(DropReason::ForbiddenIcmp),
    }
    let destination = local_pod::<F>(&scratch.packet.tuple.destination);
    if destination.ifindex != packet::ifindex(ctx) && !is_from_host {
        // Nobody vouches for the address here: its pod is not known yet, or has another interface.
        return Err(DropReason::NoSuchEndpoint);
    }
    let (ifindex, needs_ports) = (destination.ifindex, destination.may_be_tracked());
    if let Some(verdict) = wait_for_first::<F>(ctx, scratch, Hook::ToPod, ifindex, is_from_host, needs_ports)?
    {
        return Ok(verdict);
    }
    if !destination.may_be_tracked() {
        return Ok(Verdict::Pass);
    }
    // On egress nothing can come again later, so nothing waits for its flow.
    let _all_go_on = enter::<F>(ctx, scratch, &destination, is_from_host, false)?;
    Ok(Verdict::Pass)
}

/// Conntrack → ingress policy → NAT for a packet to a pod whose flows may be tracked, whichever hook it came by. Whether it
/// goes on: if it `may_wait`, its flow may be awaited.
#[inline(always)]
pub(super) fn enter<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    destination: &EndpointValue,
    from_host: bool,
    may_wait: bool,
) -> Result<bool, DropReason> {
    match find_flow::<F>(ctx, scratch) {
        Flow::Awaited if may_wait => return Ok(false),
        Flow::New | Flow::Awaited => {}
        Flow::Dropped(reason) => return Err(reason),
        // What to_netdev has translated.
        Flow::Beside if from_host => return Ok(true),
        Flow::Beside => return Err(DropReason::NatPortsExhausted),
        Flow::Known | Flow::Translated | Flow::Unanswered => return Ok(true),
    }
    if destination.is_isolated() {
        if from_host {
            open_from_host::<F>(scratch)?;
        } else {
            judge_and_open::<F>(scratch, 0, destination.ingress_set, false)?;
        }
    }
    Ok(true)
}
