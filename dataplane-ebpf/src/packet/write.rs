//! Writes to packets, with every checksum that depends on them.
use aya_ebpf::{
    helpers::generated::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use dataplane_common::{
    arith::csum,
    net::{MacAddr, proto},
    verdict::DropReason,
};

use super::{ETH_LEN, Embedded, Packet, Parse};
use crate::{family::Family, flow::Tuple};

/// Offsets in an IPv4 header.
const IPV4_TTL: u32 = 8;
const IPV4_CHECKSUM: u32 = 10;
/// Offset in an IPv6 header.
const IPV6_HOP_LIMIT: u32 = 7;
/// Offset in an ICMP header, either family.
const ICMP_CHECKSUM: u32 = 2;

/// Flag of `bpf_skb_store_bytes`.
pub(super) const RECOMPUTE_SUM: u64 = 1;

/// Flags of `bpf_l4_csum_replace`.
const PSEUDO_HEADER: u64 = 0x10;
const MANGLED_ZERO: u64 = 0x20;

/// Where the L4 checksum is, and how it is updated; `None` where addresses and ports are not covered.
#[inline(always)]
fn checksum<F: Family>(proto: u8) -> Option<(u32, u64)> {
    match proto {
        proto::TCP => Some((16, 0)),
        // A UDP checksum of zero means that there is none (RFC 768).
        proto::UDP => Some((6, MANGLED_ZERO)),
        proto::ICMPV6 if F::IS_V6 => Some((ICMP_CHECKSUM, 0)),
        _ => None,
    }
}

/// Stores the first `len` bytes of `value` at `offset`.
#[inline(always)]
pub(super) fn store_part<T>(ctx: &TcContext, offset: u32, value: &T, len: u32) -> Result<(), DropReason> {
    // SAFETY: no caller asks for more than `value` has; the helper checks the packet's bounds.
    let result =
        unsafe { bpf_skb_store_bytes(ctx.skb.skb, offset, core::ptr::from_ref(value).cast(), len, 0) };
    if result == 0 { Ok(()) } else { Err(DropReason::Truncated) }
}

/// Stores `value` at `offset`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of a small structure")]
pub(super) fn store<T>(ctx: &TcContext, offset: u32, value: &T) -> Result<(), DropReason> {
    store_part(ctx, offset, value, size_of::<T>() as u32)
}

/// Stores `value` where no checksum of the packet covers it, but that of a card that sums up whole packets
/// (`CHECKSUM_COMPLETE`) does.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of a small structure")]
fn store_summed<T>(ctx: &TcContext, offset: u32, value: &T) -> Result<(), DropReason> {
    let from = core::ptr::from_ref(value).cast();
    // SAFETY: `from` is all of `value`; the helper checks the packet's bounds.
    let result =
        unsafe { bpf_skb_store_bytes(ctx.skb.skb, offset, from, size_of::<T>() as u32, RECOMPUTE_SUM) };
    if result == 0 { Ok(()) } else { Err(DropReason::Truncated) }
}

#[inline(always)]
fn replace_l3(ctx: &TcContext, offset: u32, from: u64, to: u64, size: u64) {
    // SAFETY: the helper checks the packet's bounds, which `parse` has already established: it cannot fail.
    unsafe { bpf_l3_csum_replace(ctx.skb.skb, offset, from, to, size) };
}

#[inline(always)]
fn replace_l4(ctx: &TcContext, offset: u32, from: u64, to: u64, flags: u64) {
    // SAFETY: the helper checks the packet's bounds, which `parse` has already established: it cannot fail.
    unsafe { bpf_l4_csum_replace(ctx.skb.skb, offset, from, to, flags) };
}

/// The two ports of an L4 header, as they stand next to each other in it.
#[inline(always)]
fn ports<A>(tuple: &Tuple<A>) -> u32 {
    u32::from(tuple.source_port.raw()) | u32::from(tuple.destination_port.raw()) << 16
}

/// Checksum difference between the addresses of two tuples.
#[inline(always)]
fn address_diff<F: Family>(old: &Tuple<F::Addr>, new: &Tuple<F::Addr>) -> u32 {
    let sum = |tuple: &Tuple<F::Addr>| F::sum(&tuple.source) + F::sum(&tuple.destination);
    csum::difference(sum(old), sum(new))
}

/// The same by a helper: slower, and with less stack, which is short where packets quote packets.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a 32-bit sum in a wider return type, and the size of two addresses"
)]
fn address_diff_by_helper<F: Family>(old: &Tuple<F::Addr>, new: &Tuple<F::Addr>) -> u64 {
    let len = 2 * size_of::<F::Addr>() as u32;
    let words = |tuple: &Tuple<F::Addr>| core::ptr::from_ref(tuple).cast_mut().cast();
    // SAFETY: a tuple begins with its addresses, `len` bytes of plain words, which the helper only reads.
    unsafe { bpf_csum_diff(words(old), len, words(new), len, 0) as u64 }
}

/// Writes another tuple into the packet.
#[inline(always)]
pub(crate) fn rewrite<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    new: &Tuple<F::Addr>,
) -> Result<(), DropReason> {
    let old = &packet.tuple;
    let diff = address_diff::<F>(old, new);
    let ports_change = ports(old) != ports(new);
    if old.proto == proto::SCTP && ports_change {
        // SCTP's checksum covers its ports but no addresses (RFC 9260 §6.8).
        return Err(DropReason::SctpPortChange);
    }
    if packet.has_l4_header()
        && let Some((offset, flags)) = checksum::<F>(old.proto)
    {
        let offset = packet.l4_offset + offset;
        replace_l4(ctx, offset, 0, diff.into(), PSEUDO_HEADER | flags);
        if ports_change {
            replace_l4(ctx, offset, u64::from(ports(old)), u64::from(ports(new)), 4 | flags);
        }
    }
    let writes_ports = ports_change && packet.has_l4_header();
    let ports_follow = packet.l4_offset == ETH_LEN + F::HEADER_LEN;
    if writes_ports && !ports_follow {
        store(ctx, packet.l4_offset, &ports(new))?;
    }
    F::write_tuple(ctx, packet, new, diff, writes_ports && ports_follow)
}

/// Translates an ICMP error: the packet that it quotes, and its own addresses.
#[inline(always)]
pub(crate) fn rewrite_embedded<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    embedded: &Embedded<F::Addr>,
    outer: &Tuple<F::Addr>,
    inner: &Tuple<F::Addr>,
) -> Result<(), DropReason> {
    let checksum = packet.l4_offset + ICMP_CHECKSUM;
    let inner_diff = address_diff_by_helper::<F>(&embedded.tuple, inner);
    let outer_diff = address_diff_by_helper::<F>(&packet.tuple, outer);
    if F::IS_V6 {
        replace_l4(ctx, checksum, 0, inner_diff, 0);
        replace_l4(ctx, checksum, 0, outer_diff, PSEUDO_HEADER);
    } else {
        // The quoted header's own checksum takes up the difference, so the sum over the quote stays.
        replace_l3(ctx, embedded.l3_offset + IPV4_CHECKSUM, 0, inner_diff, 0);
        replace_l3(ctx, ETH_LEN + IPV4_CHECKSUM, 0, outer_diff, 0);
    }
    replace_l4(ctx, checksum, u64::from(ports(&embedded.tuple)), u64::from(ports(inner)), 4);
    store(ctx, embedded.l4_offset, &ports(inner))?;
    store_addresses::<F>(ctx, embedded.l3_offset, inner)?;
    store_addresses::<F>(ctx, ETH_LEN, outer)
}

/// Stores both addresses of a tuple in the IP header at `header`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of two addresses")]
fn store_addresses<F: Parse>(ctx: &TcContext, header: u32, tuple: &Tuple<F::Addr>) -> Result<(), DropReason> {
    store_part(ctx, header + F::SOURCE_OFFSET, tuple, 2 * size_of::<F::Addr>() as u32)
}

/// Writes the addresses of the Ethernet header.
#[inline(always)]
pub(crate) fn set_macs(ctx: &TcContext, destination: MacAddr, source: MacAddr) -> Result<(), DropReason> {
    store(ctx, 0, &[destination, source])
}

/// Takes one off the TTL or hop limit, as a router does (RFC 1812 §5.3.1). The caller has checked that more is left.
#[inline(always)]
pub(crate) fn decrement_hop_limit<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
) -> Result<(), DropReason> {
    let new = packet.hop_limit - 1;
    if F::IS_V6 {
        return store_summed(ctx, ETH_LEN + IPV6_HOP_LIMIT, &new);
    }
    let word = |ttl: u8| u64::from(u16::from_ne_bytes([ttl, packet.tuple.proto]));
    replace_l3(ctx, ETH_LEN + IPV4_CHECKSUM, word(packet.hop_limit), word(new), 2);
    store(ctx, ETH_LEN + IPV4_TTL, &new)
}
