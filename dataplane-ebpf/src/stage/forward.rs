//! Where a packet goes once it is allowed and translated.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
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
    let Some((ifindex, next_hop)) = F::route(&packet.tuple.destination) else {
        return Ok(Verdict::Pass);
    };
    if packet.hop_limit <= 1 {
        // The stack tells the sender that its packet has expired.
        return Ok(Verdict::Pass);
    }
    packet::decrement_hop_limit::<F>(ctx, packet)?;
    let _action = F::redirect_neigh(ifindex, &next_hop);
    Ok(Verdict::Forward { ifindex })
}
