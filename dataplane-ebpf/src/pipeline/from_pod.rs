//! What leaves a pod.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    net::proto,
    verdict::{DropReason, Hook, Verdict},
};

use super::{
    Tables, come_again,
    known::{Flow, find_flow},
    local_pod, neighbour, observed,
    opening::{judge_and_open, to_service},
    wait_for_first,
};
use crate::{
    config,
    family::{V4, V6},
    flow::Scratch,
    packet::{self, Kind, Packet, Parse as _, ethertype},
    stage::{
        antispoof,
        forward::{self, Onward},
        nat, reject,
    },
};

/// What leaves a pod.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if packet::has_vlan_tag(ctx) {
        return Err(DropReason::UnsupportedProtocol);
    }
    match packet::protocol(ctx) {
        ethertype::IPV4 => observed::<V4>(|scratch| {
            V4::parse(ctx, &mut scratch.packet)?;
            from_pod_ip::<V4>(ctx, scratch)
        }),
        ethertype::IPV6 => observed::<V6>(|scratch| {
            V6::parse(ctx, &mut scratch.packet)?;
            if scratch.packet.kind == Kind::Link {
                return neighbour::discovery(ctx, &scratch.packet);
            }
            from_pod_ip::<V6>(ctx, scratch)
        }),
        ethertype::ARP => neighbour::arp(ctx),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

#[inline(always)]
fn from_pod_ip<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
    let source = antispoof::check::<F>(ctx, &scratch.packet)?;
    if F::is_link_local(&scratch.packet.tuple.destination) {
        return Err(DropReason::BeyondLink);
    }
    let destination = local_pod::<F>(&scratch.packet.tuple.destination);
    let may_be_known = source.may_be_tracked() || destination.may_be_tracked();
    // What is not for a local pod may be for a service.
    let needs_ports = may_be_known || !destination.is_present();
    let ifindex = source.ifindex;
    if let Some(verdict) = wait_for_first::<F>(ctx, scratch, Hook::FromPod, ifindex, false, needs_ports)? {
        return Ok(verdict);
    }
    let flow = if may_be_known { find_flow::<F>(ctx, scratch) } else { Flow::New };
    // Pod addresses are never frontends, so traffic between pods does not pay for the look-up.
    #[expect(clippy::wildcard_enum_match_arm, reason = "spelled out, LLVM doubles what the verifier walks")]
    let flow = match flow {
        Flow::New if !destination.is_present() && !is_kube_proxys(&scratch.packet, &source) => {
            to_service::<F>(ctx, scratch, source.egress_set, source.is_isolated())
        }
        flow => flow,
    };
    let through_stack = config::beside_kube_proxy();
    // Translated between two pods of this node, kube-proxy's side sees nothing of it in either direction.
    let deliver_past_stack = !through_stack || matches!(flow, Flow::Translated | Flow::Beside);
    let destination = match flow {
        Flow::Known => destination,
        Flow::Translated if scratch.state.from_host != 0 => return forward::answer_host::<F>(ctx),
        Flow::Translated => local_pod::<F>(&scratch.packet.tuple.destination),
        Flow::New | Flow::Beside => {
            let is_beside = matches!(flow, Flow::Beside);
            if is_beside || source.is_isolated() || destination.is_isolated() {
                judge_and_open::<F>(scratch, source.egress_set, destination.ingress_set, is_beside)?;
            }
            if is_beside {
                nat::translate::<F>(ctx, scratch)?;
            }
            destination
        }
        Flow::Unanswered => {
            reject::answer::<F>(ctx, &scratch.packet, &source)?;
            return Ok(Verdict::Reject { ifindex: source.ifindex });
        }
        Flow::Awaited => return Ok(come_again(ctx)),
        Flow::Dropped(reason) => return Err(reason),
    };
    if destination.is_present() && deliver_past_stack {
        return forward::deliver(ctx, &destination);
    }
    if through_stack {
        return Ok(Verdict::Pass);
    }
    match forward::onward::<F>(&scratch.packet) {
        Onward::Route(route) => forward::send::<F>(ctx, &scratch.packet, route),
        Onward::Refused if scratch.packet.is_answerable() => {
            reject::answer::<F>(ctx, &scratch.packet, &source)?;
            Ok(Verdict::Reject { ifindex: source.ifindex })
        }
        Onward::Refused => Err(DropReason::UnknownServicePort),
        Onward::Lost if forward::is_nobody::<F>(ctx, &scratch.packet) => {
            reject::answer::<F>(ctx, &scratch.packet, &source)?;
            // By to_pod, which translates the answer if its connection is translated.
            Ok(Verdict::TurnBack { ifindex: source.ifindex })
        }
        Onward::Lost | Onward::Stack => Ok(Verdict::Pass),
    }
}

/// Whether a packet without a flow of ours is left to kube-proxy: that of a connection which is not new, and, where
/// it translates what is new, that of a pod without policies. A policy judges backends, so it needs to choose them.
#[inline(always)]
fn is_kube_proxys<A: Copy>(packet: &Packet<A>, source: &EndpointValue) -> bool {
    config::beside_kube_proxy()
        && ((packet.tuple.proto == proto::TCP && !packet.is_syn())
            || (config::leaves_new() && !source.is_isolated()))
}
