//! IPv6 (RFC 8200).
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    net::{AddrV6, Be16, MacAddr},
    verdict::DropReason,
};

use super::{ETH_LEN, Fragment, Packet, Parse, fragment, l4, read, write};
use crate::{family::V6, flow::Tuple};

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
#[expect(clippy::struct_field_names, reason = "the names of RFC 8200 §3")]
struct Header {
    version: u8,
    class_flow: [u8; 3],
    payload_length: Be16,
    next_header: u8,
    hop_limit: u8,
    source: AddrV6,
    destination: AddrV6,
}

const HEADER_LEN: u32 = 40;

/// Extension headers that are walked; more are dropped.
const MAX_EXTENSIONS: u32 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What extension headers have in common; of a fragment header, all of it, whose names the rest has.
#[derive(Clone, Copy)]
#[repr(C)]
struct Extension {
    next_header: u8,
    /// In units of eight bytes, without the first eight.
    len: u8,
    fragment: Be16,
    id: u32,
}

const MORE_FRAGMENTS: u16 = 1;

impl Header {
    #[inline(always)]
    fn tuple(&self) -> Tuple<AddrV6> {
        Tuple {
            source: self.source,
            destination: self.destination,
            source_port: Be16::new(0),
            destination_port: Be16::new(0),
            proto: self.next_header,
        }
    }
}

/// Where the chain of extension headers ends.
struct Walk {
    offset: u32,
    proto: u8,
    /// Offset-and-flags field of a fragment header; `None`: not a fragment.
    fragment: Option<u16>,
    id: u32,
    /// Where the part begins that was cut into fragments.
    start: u32,
}

#[inline(always)]
fn walk(ctx: &TcContext, first: u8, offset: u32) -> Result<Walk, DropReason> {
    let mut walk = Walk { offset, proto: first, fragment: None, id: 0, start: 0 };
    for _ in 0..MAX_EXTENSIONS {
        match walk.proto {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let extension: Extension = read(ctx, walk.offset)?;
                // The second word of a routing header is its type and how many segments are left (RFC 8200 §4.4).
                if walk.proto == ROUTING && extension.fragment.get() & 0xff != 0 {
                    return Err(DropReason::SourceRouted);
                }
                walk.proto = extension.next_header;
                walk.offset += (u32::from(extension.len) + 1) * 8;
            }
            // A fragment of a fragment: nobody sends it, and receivers differ in what they make of it.
            FRAGMENT if walk.fragment.is_some() => return Err(DropReason::ExtensionHeaders),
            FRAGMENT => {
                let extension: Extension = read(ctx, walk.offset)?;
                walk.proto = extension.next_header;
                walk.offset += 8;
                let fragment = extension.fragment.get();
                walk.fragment = Some(fragment);
                walk.id = extension.id;
                walk.start = walk.offset;
                if fragment >> 3 != 0 {
                    // What follows is payload, whatever the next header says.
                    return Ok(walk);
                }
            }
            _ => return Ok(walk),
        }
    }
    match walk.proto {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => Err(DropReason::ExtensionHeaders),
        _ => Ok(walk),
    }
}

impl Parse for V6 {
    const HEADER_LEN: u32 = HEADER_LEN;
    const PROTOCOL_OFFSET: u32 = 6;
    const SOURCE_OFFSET: u32 = 8;
    const DESTINATION_OFFSET: u32 = 24;

    #[inline(always)]
    fn write_tuple(
        ctx: &TcContext,
        _: &Packet<AddrV6>,
        new: &Tuple<AddrV6>,
        _: u32,
        with_ports: bool,
    ) -> Result<(), DropReason> {
        let len = if with_ports { 36 } else { 32 };
        write::store_part(ctx, ETH_LEN + Self::SOURCE_OFFSET, new, len)
    }

    #[inline(never)]
    fn parse(ctx: &TcContext, packet: &mut Packet<AddrV6>) -> Result<(), DropReason> {
        let frame: Frame = read(ctx, 6)?;
        let header = &frame.ip;
        if header.version >> 4 != 6 {
            return Err(DropReason::InvalidHeader);
        }
        *packet = Packet {
            tuple: header.tuple(),
            source_mac: frame.source_mac,
            kind: super::Kind::Flow,
            fragment: Fragment::Whole,
            fragment_id: 0,
            header_end: 0,
            tcp_flags: 0,
            ip_checksum: 0,
            hop_limit: header.hop_limit,
            l4_offset: ETH_LEN + HEADER_LEN,
        };
        // The common case is worth its own path: no extension header.
        let walk = match header.next_header {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => {
                walk(ctx, header.next_header, ETH_LEN + HEADER_LEN)?
            }
            proto => Walk { offset: ETH_LEN + HEADER_LEN, proto, fragment: None, id: 0, start: 0 },
        };
        packet.tuple.proto = walk.proto;
        packet.l4_offset = walk.offset;
        match walk.fragment {
            Some(place) if place >> 3 != 0 => {
                packet.fragment_id = walk.id;
                return fragment::follow::<V6>(packet, u32::from(place & !7));
            }
            Some(place) if place & MORE_FRAGMENTS != 0 => {
                packet.fragment_id = walk.id;
                let end = ETH_LEN + HEADER_LEN + u32::from(header.payload_length.get());
                fragment::lead(packet, walk.start, l4::min_len::<V6>(walk.proto), end)?;
            }
            // An atomic fragment (RFC 6946) is a whole packet.
            Some(_) | None => {}
        }
        l4::parse::<V6>(ctx, packet)
    }

    #[inline(always)]
    fn parse_embedded(ctx: &TcContext, offset: u32) -> Result<(Tuple<AddrV6>, u32), DropReason> {
        let header: Header = read(ctx, offset)?;
        Ok((header.tuple(), offset + HEADER_LEN))
    }
}
