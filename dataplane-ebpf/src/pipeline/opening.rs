//! The first packet of a flow.
use aya_ebpf::programs::TcContext;
use dataplane_common::verdict::DropReason;

use super::{known::Flow, local_pod};
use crate::{
    family::Family,
    flow::{Allowed, Scratch, Tuple},
    packet::{self, Fragment, Kind, Packet, Parse},
    stage::{
        conntrack::{self, Opening},
        nat, policy,
        service::{self, Choice},
    },
};

/// Service → policy → conntrack → NAT for the first packet of a flow to a frontend.
#[inline(never)]
pub(super) fn to_service<F: Parse>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>, egress_set: u32) -> Flow {
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
pub(super) fn judge_and_open<F: Parse>(
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

#[inline(always)]
pub(super) fn open<F: Family>(packet: &Packet<F::Addr>, allowed: Allowed, from_host: bool) {
    // A reset opens nothing, and an error belongs to another flow.
    if packet.kind == Kind::Flow && packet.tcp_flags & packet::tcp::RST == 0 {
        conntrack::open::<F>(&packet.tuple, &Opening::new(0, allowed, from_host));
    }
}
