//! What a process of this host sends to a service, where it was not translated at the socket: the socket shares its port
//! with others, belongs to the kernel, or to a process that the socket programs do not see.
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    conntrack::zone,
    route::slot,
    verdict::{DropReason, Hook, Verdict},
};

use super::{
    Tables,
    known::{Flow, find_flow},
    local_pod, observed,
    opening::{to_nobody, without_flow},
    wait_for_first,
};
use crate::{
    config,
    family::{V4, V6},
    flow::{Allowed, Scratch, Tuple},
    packet::{self, Fragment, Kind, ethertype},
    stage::{
        conntrack::{Opening, host},
        forward::{self, Onward},
        nat, policy, reject,
        service::{self, Choice},
    },
};

/// Whether the packet came in by some interface: another hook has seen it there.
#[inline(always)]
pub(crate) fn is_forwarded(ctx: &TcContext) -> bool {
    packet::ingress_ifindex(ctx) != config::host_ingress_ifindex()
}

/// What a process of this host sends out of an uplink.
#[inline(always)]
pub(crate) fn to_netdev(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if packet::has_vlan_tag(ctx) {
        return Ok(Verdict::Pass);
    }
    match packet::protocol(ctx) {
        ethertype::IPV4 => to_netdev_ip::<V4>(ctx),
        ethertype::IPV6 => to_netdev_ip::<V6>(ctx),
        _ => Ok(Verdict::Pass),
    }
}

#[inline(always)]
fn to_netdev_ip<F: Tables>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // Most of it is for no service: it pays for one read and a comparison.
    match packet::destination::<F>(ctx) {
        Ok(address) if F::is_in(slot::SERVICES, &address) => {
            observed::<F>(|scratch| to_address_of_service::<F>(ctx, scratch))
        }
        Ok(_) | Err(_) => Ok(Verdict::Pass),
    }
}

#[inline(always)]
fn to_address_of_service<F: Tables>(
    ctx: &TcContext,
    scratch: &mut Scratch<F::Addr>,
) -> Result<Verdict, DropReason> {
    // Others may have addresses among those of services: what is not known to be for one is left alone.
    if F::parse(ctx, &mut scratch.packet).is_err() {
        return Ok(Verdict::Pass);
    }
    let is_flows = matches!(scratch.packet.kind, Kind::Flow | Kind::IcmpError);
    if !is_flows || scratch.packet.fragment == Fragment::Orphan {
        return Ok(Verdict::Pass);
    }
    let ifindex = packet::ifindex(ctx);
    // The host sends its fragments in order.
    if let Some(verdict) = wait_for_first::<F>(ctx, scratch, Hook::ToNetdev, ifindex, true, false)? {
        return Ok(verdict);
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "spelled out, LLVM doubles what the verifier walks")]
    let flow = match find_flow::<F>(ctx, scratch) {
        Flow::New | Flow::Awaited if scratch.packet.kind == Kind::Flow => open_flow::<F>(ctx, scratch),
        flow => flow,
    };
    match flow {
        Flow::Translated => host::note(),
        Flow::Unanswered => {
            reject::answer_back::<F>(ctx, &scratch.packet)?;
            return Ok(Verdict::TurnBack { ifindex });
        }
        Flow::Dropped(reason) if service::has_address::<F>(&scratch.packet.tuple.destination) => {
            return Err(reason);
        }
        Flow::New | Flow::Awaited | Flow::Known | Flow::Beside | Flow::Dropped(_) => {
            return Ok(Verdict::Pass);
        }
    }
    let destination = local_pod::<F>(&scratch.packet.tuple.destination);
    if destination.is_present() {
        return forward::deliver(ctx, &destination);
    }
    match forward::onward::<F>(&scratch.packet) {
        Onward::Route(route) => Ok(forward::send_own(route)),
        // The pod is gone, and its flows go soon: then the client learns of it.
        Onward::Lost | Onward::Stack | Onward::Refused => Err(DropReason::NoBackend),
    }
}

#[inline(never)]
fn open_flow<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Flow {
    match open::<F>(ctx, scratch) {
        Ok(flow) => flow,
        Err(reason) => Flow::Dropped(reason),
    }
}

/// Service → conntrack → NAT for the first packet of a flow. No policy is asked: none speaks about the host, and the pod's
/// own node always reaches it.
#[inline(always)]
fn open<F: Tables>(ctx: &TcContext, scratch: &mut Scratch<F::Addr>) -> Result<Flow, DropReason> {
    if config::beside_kube_proxy() {
        return Ok(Flow::New);
    }
    let client = &scratch.packet.tuple;
    let service_id = match service::choose::<F>(&client.destination, client.destination_port, client.proto) {
        Choice::None => return to_nobody::<F>(ctx, scratch),
        Choice::Reject if scratch.packet.fragment == Fragment::Whole => return Ok(Flow::Unanswered),
        Choice::Backend { .. } if scratch.packet.is_mid_stream() => return without_flow(&scratch.packet),
        Choice::Reject => return Err(DropReason::NoBackend),
        Choice::Drop => return Err(DropReason::NoLocalBackend),
        Choice::Backend { addr, port, service_id } => {
            scratch.translation = Tuple { destination: addr, destination_port: port, ..*client };
            service_id
        }
    };
    scratch.epoch = policy::epoch();
    // A pod of this node is to look for the flow when it answers.
    nat::mark_translated::<F>(&scratch.translation.destination);
    let opening = Opening {
        service_id,
        allowed: Allowed::NO_RULE,
        is_from_host: true,
        is_mid_stream: false,
        client_zone: zone::POD,
    };
    host::open_by_host::<F>(ctx, scratch, &opening)?;
    nat::translate::<F>(ctx, scratch)?;
    Ok(Flow::Translated)
}
