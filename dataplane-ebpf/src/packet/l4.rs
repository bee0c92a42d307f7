//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792), ICMPv6 (RFC 4443, 4861, 2710, 3810).
use aya_ebpf::programs::TcContext;
use dataplane_common::{
    net::{Be16, proto},
    verdict::DropReason,
};

use super::{Kind, Packet, Parse, read};
use crate::{family::Family, flow::Tuple, tables::Fragments};

/// The start of a TCP header, up to its flags.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tcp {
    source_port: Be16,
    destination_port: Be16,
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    data_offset: u8,
    flags: u8,
}

/// What TCP, UDP and SCTP start with.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ports {
    source_port: Be16,
    destination_port: Be16,
}

/// The part of the UDP header that must be there.
#[derive(Clone, Copy)]
#[repr(C)]
struct Udp {
    ports: Ports,
    length: Be16,
    checksum: u16,
}

/// ICMP and ICMPv6, with the identifier of an echo.
#[derive(Clone, Copy)]
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    identifier: Be16,
}

/// Length of an ICMP header, after which an error quotes the packet it is about.
pub(super) const ICMP_LEN: u32 = 8;

mod icmp {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const SOURCE_QUENCH: u8 = 4;
    pub(super) const REDIRECT: u8 = 5;
    pub(super) const ECHO: u8 = 8;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 9;
    pub(super) const TIME_EXCEEDED: u8 = 11;
    pub(super) const PARAMETER_PROBLEM: u8 = 12;
}

pub(super) mod icmpv6 {
    pub(super) const LAST_ERROR: u8 = 127;
    pub(super) const ECHO: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;
    pub(super) const LISTENER_QUERY: u8 = 130;
    pub(super) const LISTENER_REPORT: u8 = 131;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(in crate::packet) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(in crate::packet) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(in crate::packet) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_V2: u8 = 143;
}

/// What a first fragment must have of its L4 header: all that anybody judges it by.
#[inline(always)]
pub(super) fn min_len<F: Family>(l4: u8) -> u32 {
    match l4 {
        proto::TCP => 20,
        proto::UDP => 8,
        proto::SCTP => 12,
        l4 if l4 == F::ICMP => ICMP_LEN,
        _ => 0,
    }
}

/// Fills in what the L4 header says.
#[inline(always)]
pub(super) fn parse<F: Fragments>(ctx: &TcContext, packet: &mut Packet<F::Addr>) -> Result<(), DropReason> {
    match packet.tuple.proto {
        proto::TCP => {
            let tcp: Tcp = read(ctx, packet.l4_offset)?;
            packet.tuple.source_port = tcp.source_port;
            packet.tuple.destination_port = tcp.destination_port;
            packet.tcp_flags = tcp.flags;
        }
        proto::UDP => {
            let udp: Udp = read(ctx, packet.l4_offset)?;
            packet.tuple.source_port = udp.ports.source_port;
            packet.tuple.destination_port = udp.ports.destination_port;
        }
        proto::SCTP => {
            let ports: Ports = read(ctx, packet.l4_offset)?;
            packet.tuple.source_port = ports.source_port;
            packet.tuple.destination_port = ports.destination_port;
        }
        proto if proto == F::ICMP => {
            let icmp: Icmp = read(ctx, packet.l4_offset)?;
            let (kind, is_echo) = if F::IS_V6 { classify_v6(icmp.kind) } else { classify_v4(icmp.kind) };
            packet.kind = kind;
            if is_echo {
                packet.tuple.source_port = icmp.identifier;
                packet.tuple.destination_port = icmp.identifier;
            }
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn classify_v4(kind: u8) -> (Kind, bool) {
    match kind {
        icmp::ECHO | icmp::ECHO_REPLY => (Kind::Flow, true),
        icmp::UNREACHABLE | icmp::SOURCE_QUENCH | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => {
            (Kind::IcmpError, false)
        }
        icmp::REDIRECT | icmp::ROUTER_ADVERTISEMENT => (Kind::Forbidden, false),
        _ => (Kind::Flow, false),
    }
}

#[inline(always)]
fn classify_v6(kind: u8) -> (Kind, bool) {
    match kind {
        icmpv6::ECHO | icmpv6::ECHO_REPLY => (Kind::Flow, true),
        0..=icmpv6::LAST_ERROR => (Kind::IcmpError, false),
        icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT | icmpv6::LISTENER_QUERY => (Kind::Forbidden, false),
        icmpv6::LISTENER_REPORT
        | icmpv6::LISTENER_DONE
        | icmpv6::LISTENER_REPORT_V2
        | icmpv6::ROUTER_SOLICITATION
        | icmpv6::NEIGHBOUR_SOLICITATION
        | icmpv6::NEIGHBOUR_ADVERTISEMENT => (Kind::Link, false),
        _ => (Kind::Flow, false),
    }
}

/// The packet that an ICMP error is about.
#[derive(Clone, Copy)]
pub(crate) struct Embedded<A> {
    pub(crate) tuple: Tuple<A>,
    /// Offset of its IP header.
    pub(crate) l3_offset: u32,
    /// Offset of its L4 header, of which only the first eight bytes need be there.
    pub(crate) l4_offset: u32,
}

/// Parses the packet that an ICMP error quotes.
#[inline(always)]
pub(crate) fn embedded<F: Parse>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
) -> Result<Embedded<F::Addr>, DropReason> {
    let l3_offset = packet.l4_offset + ICMP_LEN;
    let (mut tuple, l4_offset) = F::parse_embedded(ctx, l3_offset)?;
    match tuple.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            let ports: Ports = read(ctx, l4_offset)?;
            tuple.source_port = ports.source_port;
            tuple.destination_port = ports.destination_port;
        }
        proto if proto == F::ICMP => {
            let icmp: Icmp = read(ctx, l4_offset)?;
            tuple.source_port = icmp.identifier;
            tuple.destination_port = icmp.identifier;
        }
        _ => {}
    }
    Ok(Embedded { tuple, l3_offset, l4_offset })
}
