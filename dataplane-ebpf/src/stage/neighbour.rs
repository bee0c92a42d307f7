//! What a pod says to its link: whether it may, and who answers.
//!
//! Only the pod and its gateway are on the link, and the gateway is this program. Nothing of it reaches the host's
//! stack, whose entries for pods are permanent: a pod cannot fill or change the host's neighbour table.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    net::{AddrV6, MacAddr},
    verdict::DropReason,
};

use crate::{
    family::{V4, V6},
    packet::{
        self, Fragment, Packet,
        neighbour::{self, Arp, GATEWAY, Says},
    },
    tables::Endpoints,
};

/// What becomes of it.
pub(crate) enum Hearing {
    /// The gateway answers, with this link-layer address.
    Answer(MacAddr),
    /// It needs no answer.
    Heard,
}

/// Judges an ARP packet.
#[inline(always)]
pub(crate) fn hear_arp(ctx: &TcContext, arp: &Arp) -> Result<Hearing, DropReason> {
    if !arp.is_valid() {
        return Err(DropReason::NeighbourMalformed);
    }
    // A probe for a duplicate names no sender yet (RFC 5227 §2.1.1).
    let is_probe = arp.sender().0 == 0 && arp.is_request();
    let claimed = if is_probe { arp.target() } else { arp.sender() };
    let endpoint = own::<V4>(ctx, &claimed)?;
    if endpoint.pod_mac != arp.sender_mac || arp.frame_source != arp.sender_mac {
        return Err(DropReason::SpoofedMac);
    }
    if !arp.is_request() || arp.target() == claimed {
        return Ok(Hearing::Heard);
    }
    if !arp.is_for_gateway() {
        return Err(DropReason::NeighbourElsewhere);
    }
    Ok(Hearing::Answer(endpoint.host_mac))
}

/// Judges a packet of neighbour discovery, or a listener report.
#[inline(always)]
pub(crate) fn hear(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<Hearing, DropReason> {
    if packet.fragment != Fragment::Whole {
        // RFC 6980: no neighbour discovery in fragments.
        return Err(DropReason::NeighbourMalformed);
    }
    let says = neighbour::says(ctx, packet)?;
    let (source, destination) = (&packet.tuple.source, &packet.tuple.destination);
    match says {
        Says::Solicitation => return hear_solicitation(ctx, packet),
        Says::Advertisement => hear_advertisement(ctx, packet)?,
        Says::RouterSolicitation => {
            check_speaker(ctx, packet, true)?;
            if !destination.is_link_multicast() && !destination.is_link_local() {
                return Err(DropReason::NeighbourElsewhere);
            }
        }
        Says::Listener => {
            if !source.is_unspecified() && !is_own_link_local(source) {
                return Err(DropReason::SpoofedAddress);
            }
            if !destination.is_multicast() {
                return Err(DropReason::NeighbourElsewhere);
            }
        }
    }
    Ok(Hearing::Heard)
}

#[inline(always)]
fn hear_solicitation(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<Hearing, DropReason> {
    let target = neighbour::target(ctx, packet)?;
    let destination = &packet.tuple.destination;
    if *destination != target && *destination != target.solicited_node() {
        return Err(DropReason::NeighbourElsewhere);
    }
    let is_for_gateway = target == GATEWAY;
    // Who looks for duplicates of its own address has none yet.
    let endpoint = check_speaker(ctx, packet, !is_for_gateway)?;
    if neighbour::has_false_option(ctx, packet, true, packet.source_mac)? {
        return Err(DropReason::SpoofedMac);
    }
    if is_for_gateway {
        return match endpoint {
            Some(endpoint) => Ok(Hearing::Answer(endpoint.host_mac)),
            // From a link-local address a kernel only asks whether the gateway is still where it was.
            None if *destination == GATEWAY => Ok(Hearing::Answer(neighbour::frame_destination(ctx)?)),
            None => Ok(Hearing::Heard),
        };
    }
    if !is_own_link_local(&target) && own::<V6>(ctx, &target).is_err() {
        return Err(DropReason::NeighbourElsewhere);
    }
    Ok(Hearing::Heard)
}

#[inline(always)]
fn hear_advertisement(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<(), DropReason> {
    let target = neighbour::target(ctx, packet)?;
    let destination = &packet.tuple.destination;
    if !destination.is_link_multicast() && !destination.is_link_local() {
        return Err(DropReason::NeighbourElsewhere);
    }
    check_speaker(ctx, packet, false)?;
    if !is_own_link_local(&target) {
        own::<V6>(ctx, &target)?;
    }
    if neighbour::has_false_option(ctx, packet, false, packet.source_mac)? {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

/// Checks the source: the pod's own address, or a link-local one, which is nobody's business beyond the link.
#[inline(always)]
fn check_speaker(
    ctx: &TcContext,
    packet: &Packet<AddrV6>,
    may_be_unspecified: bool,
) -> Result<Option<EndpointValue>, DropReason> {
    let source = &packet.tuple.source;
    if is_own_link_local(source) || (may_be_unspecified && source.is_unspecified()) {
        return Ok(None);
    }
    let endpoint = own::<V6>(ctx, source)?;
    if endpoint.pod_mac != packet.source_mac {
        return Err(DropReason::SpoofedMac);
    }
    Ok(Some(endpoint))
}

/// Whether a link-local address may be the pod's: any but the gateway's.
#[inline(always)]
fn is_own_link_local(addr: &AddrV6) -> bool {
    addr.is_link_local() && *addr != GATEWAY
}

/// The endpoint of an address, if it is that of the pod behind this interface.
#[inline(always)]
fn own<F: Endpoints>(ctx: &TcContext, addr: &F::Addr) -> Result<EndpointValue, DropReason> {
    // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
    let endpoint = F::endpoint(addr).map(|endpoint| unsafe { *endpoint });
    match endpoint {
        Some(endpoint) if endpoint.ifindex == packet::ifindex(ctx) => Ok(endpoint),
        _ => Err(DropReason::SpoofedAddress),
    }
}
