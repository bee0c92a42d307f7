//! Rejections: a packet becomes the answer to itself, RST for TCP and "port unreachable" for the rest.
use aya_ebpf::{helpers::generated::bpf_skb_change_tail, programs::TcContext};
use dataplane_common::{
    arith::csum,
    net::{Be16, proto},
    verdict::DropReason,
};

use super::{ETH_LEN, Packet, Parse, read, tcp, write::store};
use crate::{family::Family, flow::Tuple};

/// Hop limit of what the node itself sends.
const HOP_LIMIT: u8 = 64;
const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;
const TCP_LEN: u32 = 20;
const ICMP_LEN: u32 = 8;

/// A TCP header as words, for its checksum.
#[derive(Clone, Copy)]
#[repr(C)]
struct TcpHeader {
    ports: [Be16; 2],
    sequence: u32,
    acknowledgement: u32,
    /// Data offset, flags, window.
    offset_flags: [u8; 2],
    window: u16,
    checksum: u16,
    urgent: u16,
}

impl TcpHeader {
    #[inline(always)]
    fn sum(&self) -> u64 {
        let [source, destination] = self.ports;
        u64::from(source.raw())
            + u64::from(destination.raw())
            + u64::from(self.sequence)
            + u64::from(self.acknowledgement)
            + u64::from(u16::from_ne_bytes(self.offset_flags))
            + u64::from(self.window)
    }
}

/// Turns the packet into its rejection: the caller still swaps the MAC addresses.
#[inline(always)]
pub(crate) fn reject<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<(), DropReason> {
    if packet.tuple.proto == proto::TCP { reset::<F>(ctx, packet) } else { unreachable::<F>(ctx, packet) }
}

/// The reset that a closed port would send (RFC 9293 §3.10.7.1).
#[inline(always)]
fn reset<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<(), DropReason> {
    if packet.tcp_flags & tcp::RST != 0 {
        return Err(DropReason::NoBackend);
    }
    let received: TcpHeader = read(ctx, packet.l4_offset)?;
    let reply = packet.tuple.reversed();
    let mut header = TcpHeader {
        ports: [reply.source_port, reply.destination_port],
        sequence: 0,
        acknowledgement: 0,
        offset_flags: [0x50, tcp::RST],
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    if packet.tcp_flags & tcp::ACK != 0 {
        header.sequence = received.acknowledgement;
    } else {
        let header_len = u32::from(received.offset_flags[0] >> 4) * 4;
        let payload = ctx.len().wrapping_sub(packet.l4_offset).wrapping_sub(header_len);
        let control =
            u32::from(packet.tcp_flags & tcp::SYN != 0) + u32::from(packet.tcp_flags & tcp::FIN != 0);
        header.offset_flags[1] |= tcp::ACK;
        header.acknowledgement =
            u32::from_be(received.sequence).wrapping_add(payload).wrapping_add(control).to_be();
    }
    header.checksum = csum::fold(header.sum() + pseudo_header::<F>(&reply, TCP_LEN));
    let l4_offset = resize::<F>(ctx, TCP_LEN)?;
    store_ip_header::<F>(ctx, &reply, TCP_LEN)?;
    store(ctx, l4_offset, &header)
}

/// "Port unreachable", quoting the IP header and eight bytes (RFC 792, RFC 4443 §3.1).
#[inline(always)]
fn unreachable<F: Parse>(ctx: &TcContext, packet: &Packet<F::Addr>) -> Result<(), DropReason> {
    if F::IS_V6 {
        unreachable_with::<F, 12>(ctx, packet, [1, 4])
    } else {
        unreachable_with::<F, 7>(ctx, packet, [3, 3])
    }
}

/// `WORDS`: 32-bit words of the quote, an IP header without options and eight bytes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a handful of words")]
fn unreachable_with<F: Parse, const WORDS: usize>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    type_code: [u8; 2],
) -> Result<(), DropReason> {
    let quote_len = WORDS as u32 * 4;
    if packet.l4_offset != ETH_LEN + quote_len - 8 {
        // Options or extension headers: not worth a variable-length copy.
        return Err(DropReason::RejectFailed);
    }
    let quote: [u32; WORDS] = read(ctx, ETH_LEN)?;
    let mut reply = packet.tuple.reversed();
    reply.proto = F::ICMP;
    let len = ICMP_LEN + quote_len;
    let mut sum = u64::from(u16::from_ne_bytes(type_code));
    for word in quote {
        sum += u64::from(word);
    }
    if F::IS_V6 {
        sum += pseudo_header::<F>(&reply, len);
    }
    let [kind, code] = type_code;
    let checksum = csum::fold(sum).to_ne_bytes();
    let header = [u32::from_ne_bytes([kind, code, checksum[0], checksum[1]]), 0];
    let l4_offset = resize::<F>(ctx, len)?;
    store_ip_header::<F>(ctx, &reply, len)?;
    store(ctx, l4_offset, &header)?;
    store(ctx, l4_offset + ICMP_LEN, &quote)
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the length of a small packet")]
fn pseudo_header<F: Family>(tuple: &Tuple<F::Addr>, len: u32) -> u64 {
    F::sum(&tuple.source)
        + F::sum(&tuple.destination)
        + u64::from(Be16::new(u16::from(tuple.proto)).raw())
        + u64::from(Be16::new(len as u16).raw())
}

/// Cuts or grows the packet to an IP header and `len` bytes; returns where those start.
#[inline(always)]
fn resize<F: Family>(ctx: &TcContext, len: u32) -> Result<u32, DropReason> {
    let l4_offset = ETH_LEN + if F::IS_V6 { IPV6_LEN } else { IPV4_LEN };
    // SAFETY: the helper only reads its arguments and changes the packet.
    match unsafe { bpf_skb_change_tail(ctx.skb.skb, l4_offset + len, 0) } {
        0 => Ok(l4_offset),
        _ => Err(DropReason::RejectFailed),
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the length of a small packet")]
fn store_ip_header<F: Parse>(ctx: &TcContext, tuple: &Tuple<F::Addr>, len: u32) -> Result<(), DropReason> {
    if F::IS_V6 {
        let length = Be16::new(len as u16).raw().to_ne_bytes();
        store(ctx, ETH_LEN, &[0x60u8, 0, 0, 0, length[0], length[1], tuple.proto, HOP_LIMIT])?;
    } else {
        let length = Be16::new((IPV4_LEN + len) as u16).raw().to_ne_bytes();
        let mut words = [
            u32::from_ne_bytes([0x45, 0, length[0], length[1]]),
            // No identification is needed where fragmentation is forbidden (RFC 6864).
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([HOP_LIMIT, tuple.proto, 0, 0]),
        ];
        let sum = u64::from(words[0])
            + u64::from(words[1])
            + u64::from(words[2])
            + F::sum(&tuple.source)
            + F::sum(&tuple.destination);
        let checksum = csum::fold(sum).to_ne_bytes();
        words[2] = u32::from_ne_bytes([HOP_LIMIT, tuple.proto, checksum[0], checksum[1]]);
        store(ctx, ETH_LEN, &words)?;
    }
    store(ctx, ETH_LEN + F::SOURCE_OFFSET, &tuple.source)?;
    store(ctx, ETH_LEN + F::DESTINATION_OFFSET, &tuple.destination)
}
