//! A pod sends from its own addresses, and never plays the router.
use aya_ebpf::programs::TcContext;
use dataplane_common::{endpoint::EndpointValue, verdict::DropReason};

use crate::{
    packet::{self, Kind, Packet},
    tables::Endpoints,
};

/// Checks the source of a packet that came out of a pod, and returns whose it is. What pods say to their link alone
/// has rules of its own: [`super::neighbour`].
#[inline(always)]
pub(crate) fn check<F: Endpoints>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
) -> Result<EndpointValue, DropReason> {
    if packet.kind == Kind::Forbidden {
        return Err(DropReason::ForbiddenIcmp);
    }
    let endpoint = lookup::<F>(&packet.tuple.source).ok_or(DropReason::SpoofedAddress)?;
    if endpoint.ifindex != packet::ifindex(ctx) {
        return Err(DropReason::SpoofedAddress);
    }
    if endpoint.pod_mac != packet.source_mac {
        return Err(DropReason::SpoofedMac);
    }
    Ok(endpoint)
}

#[inline(always)]
fn lookup<F: Endpoints>(addr: &F::Addr) -> Option<EndpointValue> {
    // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
    F::endpoint(addr).map(|endpoint| unsafe { *endpoint })
}
