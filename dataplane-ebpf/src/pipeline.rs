//! The order of stages, one function per hook. Read this file first.
//!
//! parse → anti-spoof → conntrack → service → policy → NAT → forward. A flow that is known skips what only a new
//! one needs; a flow that no policy and no service touches skips conntrack, too.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    endpoint::EndpointValue,
    net::proto,
    policy::Direction,
    verdict::{DropReason, Verdict},
};

use crate::{
    config,
    family::{Family, V4, V6},
    flow::{Allowed, Scratch, Tuple},
    observe,
    packet::{self, Fragment, Kind, Packet, Parse, ethertype},
    stage::{
        antispoof::{self, Sender},
        conntrack::{self, Hit, Opening},
        forward, icmp_error, nat, policy, reject,
        service::{self, Choice},
    },
};

/// What leaves a pod.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if packet::has_vlan_tag(ctx) {
        return Err(DropReason::UnsupportedProtocol);
    }
    match packet::protocol(ctx) {
        ethertype::IPV4 => observed::<V4>(|scratch| from_pod_ip::<V4>(ctx, scratch)),
        ethertype::IPV6 => observed::<V6>(|scratch| from_pod_ip::<V6>(ctx, scratch)),
        ethertype::ARP => antispoof::check_arp(ctx).map(|()| Verdict::Pass),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

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
fn from_pod_ip<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
    F::parse(ctx, &mut scratch.packet)?;
    let source = match antispoof::check::<F>(ctx, &scratch.packet)? {
        Sender::Pod(endpoint) => endpoint,
        Sender::Link => return Ok(Verdict::Pass),
    };
    let destination = local_pod::<F>(&scratch.packet.tuple.destination);
    let may_be_known = source.may_be_tracked() || destination.may_be_tracked();
    let flow = if may_be_known { find_flow::<F>(ctx, scratch) } else { Flow::New };
    // Pod addresses are never frontends, so traffic between pods does not pay for the look-up.
    #[expect(clippy::wildcard_enum_match_arm, reason = "spelled out, LLVM doubles what the verifier walks")]
    let flow = match flow {
        Flow::New if !destination.is_present() && !is_kube_proxys(&scratch.packet, &source) => {
            to_service::<F>(ctx, scratch, source.egress_set)
        }
        flow => flow,
    };
    let through_stack = config::beside_kube_proxy();
    // Translated between two pods of this node, kube-proxy's side sees nothing of it in either direction.
    let deliver_past_stack = !through_stack || matches!(flow, Flow::Translated);
    let destination = match flow {
        Flow::Known => destination,
        Flow::Translated => local_pod::<F>(&scratch.packet.tuple.destination),
        Flow::New => {
            if source.is_isolated() || destination.is_isolated() {
                judge_and_open::<F>(scratch, source.egress_set, destination.ingress_set)?;
            }
            destination
        }
        Flow::WithoutBackend => {
            reject::answer::<F>(ctx, &scratch.packet, &source)?;
            return Ok(Verdict::Reject { ifindex: source.ifindex });
        }
        Flow::Dropped(reason) => return Err(reason),
    };
    if destination.is_present() && deliver_past_stack {
        return forward::deliver(ctx, &destination);
    }
    if through_stack {
        return Ok(Verdict::Pass);
    }
    forward::send::<F>(ctx, &scratch.packet)
}

/// Whether a packet without a flow of ours is left to kube-proxy: that of a connection which is not new, and, where
/// it translates what is new, that of a pod without policies. A policy judges backends, so it needs to choose them.
#[inline(always)]
fn is_kube_proxys<A: Copy>(packet: &Packet<A>, source: &EndpointValue) -> bool {
    config::beside_kube_proxy()
        && ((packet.tuple.proto == proto::TCP && !packet.is_syn())
            || (config::leaves_new() && !source.is_isolated()))
}

#[inline(always)]
fn to_pod_ip<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Verdict, DropReason> {
    F::parse(ctx, &mut scratch.packet)?;
    let destination = local_pod::<F>(&scratch.packet.tuple.destination);
    if scratch.packet.kind == Kind::Link || !destination.may_be_tracked() {
        return Ok(Verdict::Pass);
    }
    match find_flow::<F>(ctx, scratch) {
        Flow::New => {}
        Flow::Dropped(reason) => return Err(reason),
        Flow::Known | Flow::Translated | Flow::WithoutBackend => return Ok(Verdict::Pass),
    }
    if destination.is_isolated() {
        if packet::ingress_ifindex(ctx) == config::host_ingress_ifindex() {
            // The pod's own node always reaches it: kubelet probes must pass.
            open::<F>(&scratch.packet, Allowed::NO_RULE, true);
        } else {
            judge_and_open::<F>(scratch, 0, destination.ingress_set)?;
        }
    }
    Ok(Verdict::Pass)
}

/// What is known of a packet's flow. It fits in one register: a `Result` of two parts would leave one undefined when
/// it returns from a subprogram, and the verifier refuses arithmetic on what happens to be there.
#[derive(Clone, Copy)]
enum Flow {
    New,
    /// Refreshed: only forwarding is left.
    Known,
    /// As `Known`, and the packet now goes to another address.
    Translated,
    /// It goes to a service that has no backend.
    WithoutBackend,
    Dropped(DropReason),
}

/// Looks for the flow of the packet, or of the packet that it quotes.
#[inline(always)]
fn find_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match (scratch.packet.kind, scratch.packet.fragment) {
        (_, Fragment::Orphan) => Flow::Dropped(DropReason::FragmentWithoutFirst),
        (Kind::IcmpError, Fragment::Whole) => related_flow::<F>(ctx, scratch),
        _ => known_flow::<F>(ctx, scratch),
    }
}

/// Conntrack → policy (once per epoch) → NAT.
#[inline(never)]
fn known_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match advance_flow::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn advance_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    let Some(hit) = conntrack::find::<F>(&scratch.packet.tuple) else {
        return Ok(Flow::New);
    };
    if conntrack::is_reopened(&hit, &scratch.packet) {
        hit.cut();
        return Ok(Flow::New);
    }
    let is_translated = hit.translate(scratch)?;
    if config::cut_established() && hit.state().epoch != conntrack::policy_epoch() {
        judge_again::<F>(&hit, scratch, is_translated)?;
    }
    hit.advance(&scratch.packet);
    if is_translated {
        nat::translate::<F>(ctx, scratch)?;
        return Ok(Flow::Translated);
    }
    Ok(Flow::Known)
}

/// An established flow meets policies that changed since it was judged: it is judged once more, and cut if denied.
#[inline(never)]
fn judge_again<F: Parse>(
    hit: &Hit<F>,
    scratch: &mut Scratch<F::Addr>,
    is_translated: bool,
) -> Result<(), DropReason> {
    let mut allowed = Allowed::NO_RULE;
    if hit.state().from_host == 0 {
        // Client to backend, with the addresses of pods: one end is in the packet, the other in the translation.
        let (packet, new) = (&scratch.packet.tuple, &scratch.translation);
        let mut original = if hit.is_original { *packet } else { packet.reversed() };
        if is_translated && hit.is_original {
            original.destination = new.destination;
            original.destination_port = new.destination_port;
        } else if is_translated {
            original.source = new.destination;
            original.source_port = new.destination_port;
        }
        scratch.judged = original;
        match judge::<F>(scratch) {
            Ok(rules) => allowed = rules,
            Err(reason) => {
                hit.cut();
                return Err(reason);
            }
        }
    }
    hit.set_judged(allowed);
    Ok(())
}

/// An ICMP error about a flow that exists passes with it.
#[inline(never)]
fn related_flow<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match related::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn related<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    let embedded = packet::embedded::<F>(ctx, &scratch.packet)?;
    let Some(hit) = conntrack::find_quoted::<F>(&embedded.tuple) else {
        return Ok(Flow::New);
    };
    if hit.translate(scratch)? {
        icmp_error::translate::<F>(ctx, scratch, &embedded)?;
        return Ok(Flow::Translated);
    }
    Ok(Flow::Known)
}

/// Service → policy → conntrack → NAT for the first packet of a flow to a frontend.
#[inline(never)]
fn to_service<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>, egress_set: u32) -> Flow {
    match translate_new::<F>(ctx, scratch, egress_set) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn translate_new<F: Parse>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
) -> Result<Flow, DropReason> {
    if scratch.packet.kind != Kind::Flow || scratch.packet.fragment == Fragment::Orphan {
        return Ok(Flow::New);
    }
    let client = &scratch.packet.tuple;
    let service_id = match service::choose::<F>(&client.destination, client.destination_port, client.proto) {
        Choice::None => return Ok(Flow::New),
        Choice::Reject if scratch.packet.fragment == Fragment::Whole => return Ok(Flow::WithoutBackend),
        Choice::Reject => return Err(DropReason::NoBackend),
        Choice::Drop => return Err(DropReason::NoLocalBackend),
        Choice::Backend { addr, port, service_id } => {
            scratch.translation = Tuple { destination: addr, destination_port: port, ..*client };
            service_id
        }
    };
    scratch.judged = scratch.translation;
    let ingress_set = local_pod::<F>(&scratch.judged.destination).ingress_set;
    let allowed = policy::judge::<F>(scratch, egress_set, ingress_set)?;
    if scratch.translation.destination == scratch.translation.source {
        // A pod that reaches itself must not see its own address as the source, or its answer would not leave it.
        scratch.translation.source = F::HAIRPIN;
    }
    nat::mark_translated::<F>(&scratch.packet.tuple.source);
    let opening = Opening::new(service_id, allowed, false);
    conntrack::open_translated::<F>(scratch, &opening)?;
    nat::translate::<F>(ctx, scratch)?;
    Ok(Flow::Translated)
}

/// Policy → conntrack for the first packet of a flow that is not translated.
#[inline(never)]
fn judge_and_open<F: Parse>(
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    ingress_set: u32,
) -> Result<(), DropReason> {
    match (scratch.packet.kind, scratch.packet.fragment) {
        (Kind::IcmpError, _) => return Err(DropReason::UnrelatedIcmpError),
        (_, Fragment::Orphan) => return Err(DropReason::FragmentWithoutFirst),
        _ => {}
    }
    scratch.judged = scratch.packet.tuple;
    let allowed = policy::judge::<F>(scratch, egress_set, ingress_set)?;
    open::<F>(&scratch.packet, allowed, false);
    Ok(())
}

/// Judges `scratch.judged` by the sets of whichever of its ends are local pods.
#[inline(always)]
fn judge<F: Parse>(scratch: &mut Scratch<F::Addr>) -> Result<Allowed, DropReason> {
    let egress_set = local_pod::<F>(&scratch.judged.source).egress_set;
    let ingress_set = local_pod::<F>(&scratch.judged.destination).ingress_set;
    policy::judge::<F>(scratch, egress_set, ingress_set)
}

#[inline(always)]
fn open<F: Family>(packet: &Packet<F::Addr>, allowed: Allowed, from_host: bool) {
    // A reset opens nothing, and an error belongs to another flow.
    if packet.kind == Kind::Flow && packet.tcp_flags & packet::tcp::RST == 0 {
        conntrack::open::<F>(&packet.tuple, &Opening::new(0, allowed, from_host));
    }
}

/// The endpoint of a local pod's address.
#[inline(always)]
fn local_pod<F: Family>(addr: &F::Addr) -> EndpointValue {
    match F::endpoint(addr) {
        // SAFETY: copied out at once; the agent replaces entries, it never edits them in place.
        Some(endpoint) => unsafe { *endpoint },
        None => EndpointValue::ABSENT,
    }
}

/// Runs a pipeline in this CPU's working memory and remembers which flow policy denied.
#[inline(always)]
fn observed<F: Family>(
    pipeline: impl FnOnce(&mut Scratch<F::Addr>) -> Result<Verdict, DropReason>,
) -> Result<Verdict, DropReason> {
    let Some(scratch) = F::scratch() else {
        // Impossible for slot 0 of an array, but the verifier wants it handled.
        return Err(DropReason::Truncated);
    };
    // SAFETY: per-CPU memory, used by one program run at a time, and every field is written before it is read.
    let scratch = unsafe { &mut *scratch };
    let verdict = pipeline(scratch);
    match verdict {
        Err(DropReason::PolicyEgress) => observe::denied::<F>(scratch, Direction::Egress),
        Err(DropReason::PolicyIngress) => observe::denied::<F>(scratch, Direction::Ingress),
        _ => {}
    }
    verdict
}
