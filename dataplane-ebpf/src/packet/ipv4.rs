//! IPv4 (RFC 791).
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use dataplane_common::{
    arith::csum,
    net::{AddrV4, Be16, MacAddr},
    verdict::DropReason,
};

use super::{ETH_LEN, Fragment, Packet, Parse, fragment, l4, read, write};
use crate::{family::V4, flow::Tuple};

/// The header, from the source MAC of its frame on: one read gives both.
#[derive(Clone, Copy)]
#[repr(C)]
struct Frame {
    source_mac: MacAddr,
    ethertype: Be16,
    ip: Header,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    version_ihl: u8,
    tos: u8,
    total_length: Be16,
    id: Be16,
    fragment: Be16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    source: AddrV4,
    destination: AddrV4,
}

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

impl Header {
    /// Length of the header with its options.
    #[inline(always)]
    fn len(&self) -> Result<u32, DropReason> {
        let len = u32::from(self.version_ihl & 0x0f) * 4;
        if self.version_ihl >> 4 == 4 && len >= 20 { Ok(len) } else { Err(DropReason::InvalidHeader) }
    }

    #[inline(always)]
    fn tuple(&self) -> Tuple<AddrV4> {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port: Be16::new(0),
            destination_port: Be16::new(0),
            proto: self.proto,
        }
    }
}

/// From the TTL on: what lies before the addresses is written again with them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rewritten {
    ttl: u8,
    proto: u8,
    checksum: u16,
    source: AddrV4,
    destination: AddrV4,
    source_port: Be16,
    destination_port: Be16,
}

const TTL_OFFSET: u32 = 8;

/// What an option starts with.
#[derive(Clone, Copy)]
#[repr(C)]
struct OptionStart {
    kind: u8,
    len: u8,
}

/// As many options as fit into a header: each takes a byte at least.
const MAX_OPTIONS: u32 = 40;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// The number of the reason why a packet with options is dropped, or 0. A global function: see [`crate::global`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_options(ctx: *mut __sk_buff, header_len: u32) -> u32 {
    let ctx = TcContext::new(ctx);
    let (mut at, end) = (ETH_LEN + V4::HEADER_LEN, ETH_LEN + header_len);
    for _ in 0..MAX_OPTIONS {
        // The last byte has no length behind it, and can be no more than padding.
        if at + 1 >= end {
            return 0;
        }
        let Ok(option) = read::<OptionStart>(&ctx, at) else { return DropReason::Truncated as u32 };
        match option.kind {
            END_OF_OPTIONS => return 0,
            NO_OPERATION => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return DropReason::SourceRouted as u32,
            _ if option.len < 2 => return DropReason::InvalidHeader as u32,
            _ => at += u32::from(option.len),
        }
    }
    0
}

impl Parse for V4 {
    const HEADER_LEN: u32 = 20;
    const PROTOCOL_OFFSET: u32 = 9;
    const SOURCE_OFFSET: u32 = 12;
    const DESTINATION_OFFSET: u32 = 16;

    #[inline(always)]
    fn write_tuple(
        ctx: &TcContext,
        packet: &Packet<AddrV4>,
        new: &Tuple<AddrV4>,
        difference: u32,
        with_ports: bool,
    ) -> Result<(), DropReason> {
        let rewritten = Rewritten {
            ttl: packet.hop_limit,
            proto: packet.tuple.proto,
            checksum: csum::updated(packet.ip_checksum, difference),
            source: new.source,
            destination: new.destination,
            source_port: new.source_port,
            destination_port: new.destination_port,
        };
        let len = if with_ports { 16 } else { 12 };
        write::store_part(ctx, ETH_LEN + TTL_OFFSET, &rewritten, len)
    }

    #[inline(never)]
    fn parse(ctx: &TcContext, packet: &mut Packet<AddrV4>) -> Result<(), DropReason> {
        let frame: Frame = read(ctx, 6)?;
        let header = &frame.ip;
        *packet = Packet {
            tuple: header.tuple(),
            source_mac: frame.source_mac,
            kind: super::Kind::Flow,
            fragment: Fragment::Whole,
            fragment_id: 0,
            header_end: 0,
            tcp_flags: 0,
            ip_checksum: header.checksum,
            hop_limit: header.ttl,
            l4_offset: ETH_LEN + header.len()?,
        };
        if packet.l4_offset != ETH_LEN + Self::HEADER_LEN
            && let Some(reason) = DropReason::numbered(judge_options(ctx.skb.skb, packet.l4_offset - ETH_LEN))
        {
            return Err(reason);
        }
        let place = header.fragment.get();
        if place & (OFFSET_MASK | MORE_FRAGMENTS) == 0 {
            return l4::parse::<V4>(ctx, packet);
        }
        packet.fragment_id = u32::from(header.id.raw());
        if place & OFFSET_MASK != 0 {
            return fragment::follow::<V4>(packet, u32::from(place & OFFSET_MASK) * 8);
        }
        let end = ETH_LEN + u32::from(header.total_length.get());
        fragment::lead(packet, packet.l4_offset, l4::min_len::<V4>(header.proto), end)?;
        l4::parse::<V4>(ctx, packet)
    }

    #[inline(always)]
    fn parse_embedded(ctx: &TcContext, offset: u32) -> Result<(Tuple<AddrV4>, u32), DropReason> {
        let header: Header = read(ctx, offset)?;
        Ok((header.tuple(), offset + header.len()?))
    }
}
