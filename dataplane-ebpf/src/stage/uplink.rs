//! Which packets from an uplink pass the host's stack: those whose answers do.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    route::{RouteValue, kind},
    verdict::DropReason,
};

use crate::{
    packet::{self, Kind, Packet, Parse},
    tables::Routes,
};

/// Whether the packet comes from a pod of another node, or is an ICMP error about a packet to one.
#[inline(always)]
pub(crate) fn passes_stack<F: Parse + Routes>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
) -> Result<bool, DropReason> {
    if packet.kind == Kind::IcmpError {
        return quotes_remote_pod::<F>(ctx, packet);
    }
    match F::route(&packet.tuple.source) {
        Some(route) if !passes(route) => Ok(false),
        Some(route) if route.ifindex != packet::ifindex(ctx) => Err(DropReason::WrongUplink),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

/// A router on the way, which is no pod, may send the error: netfilter, which knows nothing of the flow, would call it
/// invalid.
#[inline(never)]
fn quotes_remote_pod<F: Parse + Routes>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
) -> Result<bool, DropReason> {
    let embedded = packet::embedded::<F>(ctx, packet)?;
    Ok(F::route(&embedded.tuple.destination).is_some_and(passes))
}

/// Whether an address is that of another node's pod, and this is the interface that leads to it.
#[inline(always)]
pub(crate) fn leads_to<F: Parse + Routes>(ctx: &TcContext, addr: &F::Addr) -> bool {
    F::route(addr).is_some_and(|route| passes(route) && route.ifindex == packet::ifindex(ctx))
}

/// Whether packets on the route pass the stack in the other direction.
#[inline(always)]
fn passes(route: &RouteValue) -> bool {
    matches!(route.kind, kind::DIRECT | kind::GATEWAY)
}
