//! Where a packet goes once it is allowed and translated.
use core::mem::offset_of;

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect_neigh},
    programs::TcContext,
};
use dataplane_common::{
    endpoint::EndpointValue,
    route::{RouteValue, kind, slot},
    verdict::{DropReason, Verdict},
};

use crate::{
    maps::HOST_PATHS,
    packet::{self, Packet, Parse},
    tables::Routes,
};

/// Into a pod of this node, past the host's stack.
#[inline(always)]
pub(crate) fn deliver(ctx: &TcContext, endpoint: &EndpointValue) -> Result<Verdict, DropReason> {
    packet::set_macs(ctx, endpoint.pod_mac, endpoint.host_mac)?;
    Ok(Verdict::Deliver { ifindex: endpoint.ifindex })
}

/// The same for a packet that a router would have forwarded here.
#[inline(always)]
pub(crate) fn deliver_routed<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    endpoint: &EndpointValue,
) -> Result<Verdict, DropReason> {
    packet::decrement_hop_limit::<F>(ctx, packet)?;
    deliver(ctx, endpoint)
}

/// To a process of this host, an answer that was translated: it comes from a service now, and must come in by the interface
/// that packets to services leave by. A host that filters by reverse path takes it from no other.
#[inline(always)]
pub(crate) fn answer_host<F: Parse>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    match HOST_PATHS.get(u32::from(F::IS_V6)) {
        Some(path) if path.ifindex != 0 && path.ifindex != packet::ifindex(ctx) => {
            packet::set_macs(ctx, path.mac, path.mac)?;
            Ok(Verdict::PassInward { ifindex: path.ifindex })
        }
        Some(_) | None => Ok(Verdict::Pass),
    }
}

/// What becomes of a packet that goes to no pod of this node.
pub(crate) enum Onward {
    /// To another node.
    Route(&'static RouteValue),
    /// To the host's stack, which knows everything that is not a pod.
    Stack,
    /// To none of a service's ports: its sender is told.
    Refused,
    /// A segment of a TCP connection to a pod CIDR of this node. If nobody has the address, the connection is reset: what
    /// the stack says of such an address, "unreachable", does not end one.
    Lost,
}

/// Where a packet to no pod of this node goes.
#[inline(always)]
pub(crate) fn onward<F: Parse + Routes>(packet: &Packet<F::Addr>) -> Onward {
    match F::route(&packet.tuple.destination) {
        Some(route) if matches!(route.kind, kind::DIRECT | kind::GATEWAY) => Onward::Route(route),
        Some(route) if route.kind == kind::SERVICE => Onward::Refused,
        None if packet.continues_connection() && F::is_in(slot::PODS, &packet.tuple.destination) => {
            Onward::Lost
        }
        Some(_) | None => Onward::Stack,
    }
}

/// `struct bpf_fib_lookup`.
#[repr(C)]
struct FibLookup {
    family: u8,
    proto: u8,
    ports: [u16; 2],
    len: u16,
    ifindex: u32,
    flow: u32,
    source: [u32; 4],
    destination: [u32; 4],
    found: [u32; 4],
}

/// Whether the host's own routes say of the packet's destination that nobody has it: an address of the host, or one that
/// somebody else gave away, may be in a pod CIDR as well.
///
/// Needs `bpf_fib_lookup`: v4.18, 87f5fc7e48dd.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the size of a small structure"
)]
pub(crate) fn is_nobody<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> bool {
    /// `BPF_FIB_LKUP_RET_UNREACHABLE`.
    const UNREACHABLE: i64 = 2;
    const LEN: i32 = size_of::<FibLookup>() as i32;
    let mut lookup = FibLookup {
        family: F::NUMBER,
        proto: packet.tuple.proto,
        ports: [0; 2],
        len: 0,
        ifindex: packet::ifindex(ctx),
        flow: 0,
        source: F::words(&packet.tuple.source),
        destination: F::words(&packet.tuple.destination),
        found: [0; 4],
    };
    let params = (&raw mut lookup).cast::<bpf_fib_lookup>();
    // SAFETY: the helper reads and writes `lookup`, whose size it is told.
    let code = unsafe { fib_lookup(ctx.skb.skb.cast(), params, LEN, 0) };
    code == UNREACHABLE
}

/// To another node's pod.
///
/// Needs `bpf_redirect_neigh` with a next hop: v5.10, ba452c9e996d.
#[inline(always)]
pub(crate) fn send<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    route: &RouteValue,
) -> Result<Verdict, DropReason> {
    if packet.hop_limit <= 1 || !packet::fits(ctx, route.ifindex) {
        // The stack tells the sender that its packet has expired, or is too large for the uplink.
        return Ok(Verdict::Pass);
    }
    packet::decrement_hop_limit::<F>(ctx, packet)?;
    redirect_neigh(route);
    Ok(Verdict::Forward { ifindex: route.ifindex })
}

/// The same for what a process of this host sends: it has no hop behind it, and the stack has made it fit its uplink.
#[inline(always)]
pub(crate) fn send_own(route: &RouteValue) -> Verdict {
    redirect_neigh(route);
    Verdict::Forward { ifindex: route.ifindex }
}

/// The kernel resolves the neighbour.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the size of a small structure"
)]
fn redirect_neigh(route: &RouteValue) {
    const LEN: i32 = (size_of::<RouteValue>() - offset_of!(RouteValue, family)) as i32;
    let next_hop = (&raw const route.family).cast_mut().cast();
    // SAFETY: from `family` on, the value is `struct bpf_redir_neigh`, `LEN` bytes that the helper only reads.
    let _redirect = unsafe { bpf_redirect_neigh(route.ifindex, next_hop, LEN, 0) };
}
