//! What reaches this node by an uplink: packets of other nodes' pods to pods of this node pass the host's stack, as
//! those in the other direction do in [`super::from_pod`]. Netfilter sees both directions of a connection, or none.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    route::slot,
    verdict::{DropReason, Hook, Verdict},
};

use super::{come_again, local_pod, observed, to_pod::enter, wait_for_first};
use crate::{
    config,
    family::{V4, V6},
    flow::Scratch,
    packet::{self, Kind, Parse, ethertype},
    stage::{
        forward::{self, Onward},
        reject, uplink,
    },
};

/// What reaches this node by an uplink.
#[inline(always)]
pub(crate) fn from_netdev(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // A kube-proxy must see whole connections, a tag belongs to another interface, and what is for another machine is
    // none of ours.
    if config::beside_kube_proxy() || packet::has_vlan_tag(ctx) || !packet::is_for_host(ctx) {
        return Ok(Verdict::Pass);
    }
    match packet::protocol(ctx) {
        ethertype::IPV4 => from_netdev_ip::<V4>(ctx),
        ethertype::IPV6 => from_netdev_ip::<V6>(ctx),
        _ => Ok(Verdict::Pass),
    }
}

#[inline(always)]
fn from_netdev_ip<F: Parse>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // Most of what a node receives is for itself: it pays for one read and one look-up. What is cut short is left to
    // the stack.
    let Ok(address) = packet::destination::<F>(ctx) else { return Ok(Verdict::Pass) };
    let destination = local_pod::<F>(&address);
    if !destination.is_present() {
        let is_nobodys = F::is_in(slot::PODS, &address) || F::is_in(slot::SERVICES, &address);
        return if is_nobodys {
            observed::<F>(|scratch| to_nobody::<F>(ctx, scratch))
        } else {
            Ok(Verdict::Pass)
        };
    }
    observed::<F>(|scratch| to_local_pod::<F>(ctx, scratch, &destination))
}

/// What the stack would send back out: a packet to a service, which only pods and processes of nodes reach; and what the
/// stack's answer would not end, a TCP connection to a pod that is gone.
#[inline(always)]
fn to_nobody<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
    F::parse(ctx, &mut scratch.packet)?;
    let packet = &scratch.packet;
    let is_answered = match forward::onward::<F>(packet) {
        Onward::Refused => true,
        Onward::Lost => F::is_unicast(&packet.tuple.source) && forward::is_nobody::<F>(ctx, packet),
        Onward::Route(_) | Onward::Stack => false,
    };
    if !is_answered {
        return Ok(Verdict::Pass);
    }
    if !packet.is_answerable() || !F::is_unicast(&packet.tuple.source) {
        return Err(DropReason::UnknownServicePort);
    }
    reject::answer_back::<F>(ctx, packet)?;
    Ok(Verdict::TurnBack { ifindex: packet::ifindex(ctx) })
}

#[inline(always)]
fn to_local_pod<F: Parse>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    destination: &EndpointValue,
) -> Result<Verdict, DropReason> {
    F::parse(ctx, &mut scratch.packet)?;
    let packet = &scratch.packet;
    if local_pod::<F>(&packet.tuple.source).is_present() {
        return Err(DropReason::SpoofedFromOutside);
    }
    // The stack tells the sender when its packet has expired, and to_pod drops what only a link carries.
    let is_left_to_stack = matches!(packet.kind, Kind::Link | Kind::Forbidden) || packet.hop_limit <= 1;
    if is_left_to_stack || !uplink::passes_stack::<F>(ctx, packet)? {
        return Ok(Verdict::Pass);
    }
    let (ifindex, needs_ports) = (destination.ifindex, destination.may_be_tracked());
    if let Some(verdict) = wait_for_first::<F>(ctx, scratch, Hook::FromNetdev, ifindex, false, needs_ports)? {
        return Ok(verdict);
    }
    if destination.may_be_tracked() && !enter::<F>(ctx, scratch, destination, false, true)? {
        return Ok(come_again(ctx));
    }
    forward::deliver_routed::<F>(ctx, &scratch.packet, destination)
}
