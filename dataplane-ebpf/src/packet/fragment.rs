//! What the fragments of a datagram share, and frames as a whole.
use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    },
    programs::TcContext,
};
use dataplane_common::{
    fragment::{Datagram, EarlyFragment, FRAME_MAX, FragmentValue, REMEMBERED_NS},
    verdict::DropReason,
};

use super::{ETH_LEN, Fragment, Packet, ifindex, write::RECOMPUTE_SUM};
use crate::{family::Family, tables::Fragments};

/// Fills in what the first fragment said of a later one, which begins at `offset` of the datagram.
#[inline(always)]
pub(super) fn follow<F: Fragments>(packet: &mut Packet<F::Addr>, offset: u32) -> Result<(), DropReason> {
    let Some(first) = first::<F>(packet) else {
        packet.fragment = Fragment::Orphan;
        return Ok(());
    };
    if offset < u32::from(first.header_end) {
        return Err(DropReason::FragmentOverlap);
    }
    packet.tuple.source_port = first.source_port;
    packet.tuple.destination_port = first.destination_port;
    packet.tuple.proto = first.proto;
    packet.fragment = Fragment::Later;
    Ok(())
}

/// What the first fragment said, if it has come.
#[inline(always)]
pub(crate) fn first<F: Fragments>(packet: &Packet<F::Addr>) -> Option<FragmentValue> {
    let first = F::fragment(&F::fragment_key(&packet.tuple, packet.fragment_id));
    first.filter(|first| now().wrapping_sub(first.seen_at) < REMEMBERED_NS)
}

/// Notes a first fragment, whose datagram begins at `start` of the frame: its L4 header must be in it, or what follows
/// would say what it is (RFC 1858, RFC 7112).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "offsets within an IP packet")]
pub(super) fn lead<A: Copy>(
    packet: &mut Packet<A>,
    start: u32,
    header_len: u32,
    end: u32,
) -> Result<(), DropReason> {
    let header_end = packet.l4_offset + header_len;
    if header_end > end {
        return Err(DropReason::FragmentOverlap);
    }
    packet.fragment = Fragment::First;
    packet.header_end = (header_end - start) as u16;
    Ok(())
}

/// Leaves what a first fragment says to the later ones. The caller has made sure of the sender as far as it can: what
/// a liar leaves here would decide about somebody else's fragments.
#[inline(always)]
pub(crate) fn remember_first<F: Fragments>(packet: &Packet<F::Addr>) {
    let first = FragmentValue {
        seen_at: now(),
        source_port: packet.tuple.source_port,
        destination_port: packet.tuple.destination_port,
        header_end: packet.header_end,
        proto: packet.tuple.proto,
        reserved: 0,
    };
    F::remember_fragment(&F::fragment_key(&packet.tuple, packet.fragment_id), first);
}

/// The datagram that a fragment is of.
#[inline(always)]
pub(crate) fn datagram<F: Family>(packet: &Packet<F::Addr>) -> Datagram {
    Datagram {
        source: words(F::mapped(&packet.tuple.source)),
        destination: words(F::mapped(&packet.tuple.destination)),
        id: packet.fragment_id,
        proto: if F::IS_V6 { 0 } else { packet.tuple.proto.into() },
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
fn words(bytes: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_ne_bytes(bytes);
    [whole as u64, (whole >> 64) as u64]
}

/// Nanoseconds of the monotonic clock: slower to read than jiffies, but their length is known here.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// The Ethernet header. Verifiers before v6.8 (d028f87517d6) learn that a length is not 0 from a comparison with this,
/// but not from one with 0.
const FRAME_MIN: u32 = ETH_LEN;

/// Copies the whole frame. False when it is too long.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(crate) fn save(ctx: &TcContext, into: &mut EarlyFragment) -> bool {
    // SAFETY: reads a field of the context.
    let len = unsafe { (*ctx.skb.skb).len };
    if len < FRAME_MIN || len > FRAME_MAX as u32 {
        return false;
    }
    into.len = len;
    // SAFETY: `len` is no more than `frame` has; the helper checks the packet's bounds.
    unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, into.frame.as_mut_ptr().cast(), len) == 0 }
}

/// Makes the packet one that was saved.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(crate) fn become_saved(ctx: &TcContext, saved: &EarlyFragment) -> bool {
    let len = saved.len;
    if len < FRAME_MIN || len > FRAME_MAX as u32 {
        return false;
    }
    // SAFETY: `len` is no more than `frame` has; the helpers check the packet's bounds.
    unsafe {
        bpf_skb_change_tail(ctx.skb.skb, len, 0) == 0
            && bpf_skb_store_bytes(ctx.skb.skb, 0, saved.frame.as_ptr().cast(), len, RECOMPUTE_SUM) == 0
    }
}

/// Sends a copy of the packet through this hook once more: on ingress after this run, on egress at once, within it.
#[inline(always)]
pub(crate) fn send_again(ctx: &TcContext, is_egress: bool) -> bool {
    let flags = if is_egress { 0 } else { u64::from(BPF_F_INGRESS) };
    // SAFETY: the helper only reads its scalar arguments.
    unsafe { bpf_clone_redirect(ctx.skb.skb, ifindex(ctx), flags) == 0 }
}
