//! Where a packet goes once it is allowed and translated.
use core::mem::offset_of;

use aya_ebpf::{helpers::generated::bpf_redirect_neigh, programs::TcContext};
use dataplane_common::{
    endpoint::EndpointValue,
    route::{RouteValue, kind},
    verdict::{DropReason, Verdict},
};

use crate::packet::{self, Packet, Parse};

/// Into a pod of this node, past the host's stack.
#[inline(always)]
pub(crate) fn deliver(ctx: &TcContext, endpoint: &EndpointValue) -> Result<Verdict, DropReason> {
    packet::set_macs(ctx, endpoint.pod_mac, endpoint.host_mac)?;
    Ok(Verdict::Deliver { ifindex: endpoint.ifindex })
}

/// The same for a packet that a router would have forwarded here.
#[inline(always)]
pub(crate) fn deliver_routed<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    endpoint: &EndpointValue,
) -> Result<Verdict, DropReason> {
    packet::decrement_hop_limit::<F>(ctx, packet)?;
    deliver(ctx, endpoint)
}

/// To another node's pod, or else to the host's stack, which knows everything that is not a pod.
///
/// Needs `bpf_redirect_neigh` with a next hop: v5.10, ba452c9e996d.
#[inline(always)]
pub(crate) fn send<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<Verdict, DropReason> {
    let Some(route) = F::route(&packet.tuple.destination) else {
        return Ok(Verdict::Pass);
    };
    if route.kind == kind::STACK || packet.hop_limit <= 1 || !packet::fits(ctx, route.ifindex) {
        // The stack tells the sender that its packet has expired, or is too large for the uplink.
        return Ok(Verdict::Pass);
    }
    packet::decrement_hop_limit::<F>(ctx, packet)?;
    redirect_neigh(route);
    Ok(Verdict::Forward { ifindex: route.ifindex })
}

/// The kernel resolves the neighbour.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the size of a small structure"
)]
fn redirect_neigh(route: &RouteValue) {
    const LEN: i32 = (size_of::<RouteValue>() - offset_of!(RouteValue, family)) as i32;
    let next_hop = (&raw const route.family).cast_mut().cast();
    // SAFETY: from `family` on, the value is `struct bpf_redir_neigh`, `LEN` bytes that the helper only reads.
    let _redirect = unsafe { bpf_redirect_neigh(route.ifindex, next_hop, LEN, 0) };
}
