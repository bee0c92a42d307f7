//! A pod sends from its own addresses, and never plays the router.
use aya_ebpf::programs::TcContext;
use dataplane_common::{endpoint::EndpointValue, net::AddrV4, verdict::DropReason};

use crate::{
    family::{Family, V4},
    packet::{self, Kind, Packet},
};

/// What a packet from a pod may be.
pub(crate) enum Sender {
    /// From the pod's own address.
    Pod(EndpointValue),
    /// Neighbour discovery: for the host's stack, from any source the protocol uses.
    Link,
}

/// Checks the source of a packet that came out of a pod.
#[inline(always)]
pub(crate) fn check<F: Family>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<Sender, DropReason> {
    match packet.kind {
        Kind::Forbidden => return Err(DropReason::ForbiddenIcmp),
        Kind::Link => return Ok(Sender::Link),
        Kind::Flow | Kind::IcmpError => {}
    }
    let endpoint = lookup::<F>(&packet.tuple.source).ok_or(DropReason::SpoofedAddress)?;
    if endpoint.ifindex != packet::ifindex(ctx) {
        return Err(DropReason::SpoofedAddress);
    }
    if endpoint.pod_mac != packet.source_mac {
        return Err(DropReason::SpoofedMac);
    }
    Ok(Sender::Pod(endpoint))
}

/// Checks that an ARP packet from a pod tells the truth about its sender.
#[inline(always)]
pub(crate) fn check_arp(ctx: &TcContext) -> Result<(), DropReason> {
    let arp = packet::arp(ctx)?;
    let endpoint = lookup::<V4>(&AddrV4::new(arp.sender_addr)).ok_or(DropReason::SpoofedAddress)?;
    if endpoint.ifindex != packet::ifindex(ctx) {
        return Err(DropReason::SpoofedAddress);
    }
    if endpoint.pod_mac != arp.sender_mac || arp.frame_source != arp.sender_mac {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

#[inline(always)]
fn lookup<F: Family>(addr: &F::Addr) -> Option<EndpointValue> {
    // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
    F::endpoint(addr).map(|endpoint| unsafe { *endpoint })
}
