//! What reaches this node by an uplink: packets of other nodes' pods to pods of this node pass the host's stack, as
//! those in the other direction do in [`super::from_pod`]. Netfilter sees both directions of a connection, or none.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    route::slot,
    verdict::{DropReason, Hook, Verdict},
};

use super::{
    Tables, come_again,
    known::{Flow, find_flow},
    local_pod, observed,
    to_pod::enter,
    wait_for_first,
};
use crate::{
    config,
    family::{V4, V6},
    flow::Scratch,
    packet::{self, Fragment, Kind, ethertype},
    stage::{
        conntrack::host,
        forward::{self, Onward},
        reject, uplink,
    },
};

/// What reaches this node by an uplink.
#[inline(always)]
pub(crate) fn from_netdev(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // A kube-proxy must see whole connections, a tag belongs to another interface, and what is for another machine is
    // none of ours.
    let is_left_alone = config::beside_kube_proxy() && !host::is_in_use();
    if is_left_alone || packet::has_vlan_tag(ctx) || !packet::is_for_host(ctx) {
        return Ok(Verdict::Pass);
    }
    match packet::protocol(ctx) {
        ethertype::IPV4 => from_netdev_ip::<V4>(ctx),
        ethertype::IPV6 => from_netdev_ip::<V6>(ctx),
        _ => Ok(Verdict::Pass),
    }
}

#[inline(always)]
fn from_netdev_ip<F: Tables>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // Most of what a node receives is for itself: it pays for one read and one look-up. What is cut short is left to
    // the stack.
    let Ok(address) = packet::destination::<F>(ctx) else { return Ok(Verdict::Pass) };
    if config::beside_kube_proxy() {
        return to_host::<F>(ctx);
    }
    let destination = local_pod::<F>(&address);
    if !destination.is_present() {
        let is_nobodys = F::is_in(slot::PODS, &address) || F::is_in(slot::SERVICES, &address);
        return if is_nobodys {
            observed::<F>(|scratch| to_nobody::<F>(ctx, scratch))
        } else if host::is_in_use() {
            to_host::<F>(ctx)
        } else {
            Ok(Verdict::Pass)
        };
    }
    observed::<F>(|scratch| to_local_pod::<F>(ctx, scratch, &destination))
}

/// What the stack would send back out: a packet to a service, which only pods and processes of nodes reach; and what the
/// stack's answer would not end, a TCP connection to a pod that is gone.
#[inline(always)]
fn to_nobody<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
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

/// To a process of this host, while some of them have flows to services: those of other nodes' pods that answer, and whoever
/// tells of an error, are looked at.
#[inline(always)]
fn to_host<F: Tables>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let Ok(source) = packet::source::<F>(ctx) else { return Ok(Verdict::Pass) };
    let is_pods = uplink::leads_to::<F>(ctx, &source);
    if !is_pods && !packet::is_icmp::<F>(ctx) {
        return Ok(Verdict::Pass);
    }
    observed::<F>(|scratch| answer_host::<F>(ctx, scratch, is_pods))
}

/// What is not of such a flow is left as it is, whatever is wrong with it.
#[inline(always)]
fn answer_host<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    is_pods: bool,
) -> Result<Verdict, DropReason> {
    if F::parse(ctx, &mut scratch.packet).is_err() {
        return Ok(Verdict::Pass);
    }
    let may_be_answer = scratch.packet.kind == Kind::Flow && is_pods;
    let is_looked_at = may_be_answer || scratch.packet.kind == Kind::IcmpError;
    if !is_looked_at || scratch.packet.fragment == Fragment::Orphan {
        return Ok(Verdict::Pass);
    }
    let ifindex = packet::ifindex(ctx);
    if let Some(verdict) = wait_for_first::<F>(ctx, scratch, Hook::FromNetdev, ifindex, true, false)? {
        return Ok(verdict);
    }
    if matches!(find_flow::<F>(ctx, scratch), Flow::Translated) {
        return forward::answer_host::<F>(ctx);
    }
    Ok(Verdict::Pass)
}

#[inline(always)]
fn to_local_pod<F: Tables>(
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
