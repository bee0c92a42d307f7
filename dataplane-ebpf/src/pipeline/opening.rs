//! The first packet of a flow.
use aya_ebpf::programs::TcContext;
use dataplane_common::{conntrack::zone, verdict::DropReason};

use super::{Tables, judge_openers, known::Flow, local_pod};
use crate::{
    config,
    flow::{Allowed, Scratch, Tuple},
    global::global,
    packet::{self, Fragment, Kind, Packet},
    stage::{
        conntrack::{self, Opening},
        forward::{self, Onward},
        nat, policy,
        service::{self, Choice},
    },
};

/// Service → policy → conntrack → NAT for the first packet of a flow to a frontend.
#[inline(never)]
pub(super) fn to_service<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    is_isolated: bool,
) -> Flow {
    match translate_new::<F>(ctx, scratch, egress_set, is_isolated) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

#[inline(always)]
fn translate_new<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    is_isolated: bool,
) -> Result<Flow, DropReason> {
    if scratch.packet.kind != Kind::Flow || scratch.packet.fragment == Fragment::Orphan {
        return Ok(Flow::New);
    }
    let client = &scratch.packet.tuple;
    let service_id = match service::choose::<F>(&client.destination, client.destination_port, client.proto) {
        // What is not tracked is looked at when it is sent on.
        Choice::None if is_isolated && !config::beside_kube_proxy() => return to_nobody::<F>(ctx, scratch),
        Choice::None => return Ok(Flow::New),
        Choice::Reject if scratch.packet.fragment == Fragment::Whole => return Ok(Flow::Unanswered),
        Choice::Backend { .. } if scratch.packet.is_mid_stream() => return without_flow(&scratch.packet),
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
    let opening =
        Opening { service_id, allowed, is_from_host: false, is_mid_stream: false, client_zone: zone::POD };
    conntrack::open_translated::<F>(scratch, &opening)?;
    nat::translate::<F>(ctx, scratch)?;
    Ok(Flow::Translated)
}

/// What nobody will answer opens no flow: a port that the service gets later would never see the packets of that flow. Nor
/// is policy asked, which has nothing to forbid.
#[inline(always)]
pub(super) fn to_nobody<F: Tables>(ctx: &TcContext, scratch: &Scratch<F::Addr>) -> Result<Flow, DropReason> {
    match forward::onward::<F>(&scratch.packet) {
        Onward::Refused if scratch.packet.is_answerable() => Ok(Flow::Unanswered),
        Onward::Refused => Err(DropReason::UnknownServicePort),
        Onward::Lost if forward::is_nobody::<F>(ctx, &scratch.packet) => Ok(Flow::Unanswered),
        Onward::Lost | Onward::Route(_) | Onward::Stack => Ok(Flow::New),
    }
}

/// A segment to a frontend whose connection is not known: nobody knows its backend any more, so its client learns that
/// it has ended.
#[inline(always)]
pub(super) fn without_flow<A: Copy>(packet: &Packet<A>) -> Result<Flow, DropReason> {
    if packet.fragment == Fragment::Whole && packet.tcp_flags & packet::tcp::RST == 0 {
        return Ok(Flow::Unanswered);
    }
    Err(DropReason::MidStream)
}

/// Policy → conntrack for the first packet of a flow to no frontend; beside a translated one it is then to be translated.
#[inline(always)]
pub(super) fn judge_and_open<F: Tables>(
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    ingress_set: u32,
    is_beside: bool,
) -> Result<(), DropReason> {
    match (scratch.packet.kind, scratch.packet.fragment) {
        (Kind::IcmpError, _) => return Err(DropReason::UnrelatedIcmpError),
        (_, Fragment::Orphan) => return Err(DropReason::FragmentWithoutFirst),
        _ => {}
    }
    opened(open_if_allowed::<F>(scratch, egress_set, ingress_set, u32::from(is_beside)))
}

/// The first packet from this host to a pod. The pod's own node always reaches it: kubelet's probes must pass. But a
/// segment of a connection that is not known may answer the pod, which policy may forbid to open one.
#[inline(always)]
pub(super) fn open_from_host<F: Tables>(scratch: &mut Scratch<F::Addr>) -> Result<(), DropReason> {
    opened(open_as_host::<F>(scratch))
}

/// What a global function says of a flow that it was to open.
#[inline(always)]
fn opened(code: u32) -> Result<(), DropReason> {
    match Flow::of_code(code) {
        Flow::Dropped(reason) => Err(reason),
        Flow::New | Flow::Awaited | Flow::Known | Flow::Translated | Flow::Unanswered | Flow::Beside => {
            Ok(())
        }
    }
}

global! {
    /// See [`open_allowed`].
    fn open_if_allowed(egress_set, ingress_set, is_beside) -> u32 = allowed_code, judge_and_open_v4, judge_and_open_v6
}

global! {
    /// See [`open_by_host`].
    fn open_as_host() -> u32 = by_host_code, open_from_host_v4, open_from_host_v6
}

#[inline(always)]
fn allowed_code<F: Tables>(
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    ingress_set: u32,
    is_beside: u32,
) -> u32 {
    let opened = open_allowed::<F>(scratch, egress_set, ingress_set, is_beside != 0);
    opened.map_or_else(Flow::Dropped, |()| Flow::New).code()
}

#[inline(always)]
fn by_host_code<F: Tables>(scratch: &mut Scratch<F::Addr>) -> u32 {
    open_by_host::<F>(scratch).map_or_else(Flow::Dropped, |()| Flow::New).code()
}

#[inline(always)]
fn open_allowed<F: Tables>(
    scratch: &mut Scratch<F::Addr>,
    egress_set: u32,
    ingress_set: u32,
    is_beside: bool,
) -> Result<(), DropReason> {
    scratch.judged = scratch.packet.tuple;
    if scratch.packet.is_mid_stream() {
        if is_beside {
            return Err(DropReason::NatPortsExhausted);
        }
        judge_openers::<F>(scratch, true).map_err(|_| DropReason::MidStream)?;
        open::<F>(scratch, Allowed::NO_RULE, false);
        return Ok(());
    }
    let allowed = policy::judge::<F>(scratch, egress_set, ingress_set)?;
    if is_beside {
        let opening = Opening {
            service_id: 0,
            allowed,
            is_from_host: false,
            is_mid_stream: false,
            client_zone: zone::DIRECT,
        };
        return conntrack::open_beside::<F>(scratch, &opening);
    }
    open::<F>(scratch, allowed, false);
    Ok(())
}

#[inline(always)]
fn open_by_host<F: Tables>(scratch: &mut Scratch<F::Addr>) -> Result<(), DropReason> {
    if scratch.packet.is_mid_stream() {
        scratch.judged = scratch.packet.tuple.reversed();
        judge_openers::<F>(scratch, false).map_err(|_| DropReason::MidStream)?;
    } else {
        scratch.epoch = policy::epoch();
    }
    open::<F>(scratch, Allowed::NO_RULE, true);
    Ok(())
}

#[inline(always)]
fn open<F: Tables>(scratch: &mut Scratch<F::Addr>, allowed: Allowed, is_from_host: bool) {
    let packet = &scratch.packet;
    // A reset opens nothing, and an error belongs to another flow.
    if packet.kind == Kind::Flow && packet.tcp_flags & packet::tcp::RST == 0 {
        let is_mid_stream = packet.is_mid_stream();
        let opening = Opening { service_id: 0, allowed, is_from_host, is_mid_stream, client_zone: zone::POD };
        conntrack::open::<F>(scratch, &opening);
    }
}
