//! ARP (RFC 826) and neighbour discovery (RFC 4861), both questions and the answers to them.
use aya_ebpf::{
    helpers::generated::{bpf_skb_change_tail, bpf_skb_change_type},
    programs::TcContext,
};
use dataplane_common::{
    arith::csum,
    config::{GATEWAY_V4, GATEWAY_V6},
    net::{AddrV4, AddrV6, Be16, MacAddr, proto},
    verdict::DropReason,
};

use super::{
    ETH_LEN, Packet, Parse,
    l4::icmpv6,
    read,
    write::{set_macs, store},
};
use crate::family::{Family as _, V6};

/// The address that a pod looks for when it sends to anybody.
pub(crate) const GATEWAY: AddrV6 = AddrV6::new(GATEWAY_V6);

/// An ARP packet for IPv4 over Ethernet, with the addresses of its frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Arp {
    frame_destination: MacAddr,
    pub(crate) frame_source: MacAddr,
    ethertype: Be16,
    hardware: Be16,
    protocol: Be16,
    lengths: [u8; 2],
    operation: Be16,
    pub(crate) sender_mac: MacAddr,
    sender_addr: [u8; 4],
    target_mac: MacAddr,
    target_addr: [u8; 4],
}

/// Offset of the operation in an ARP packet, from which on an answer differs from its question.
const ARP_OPERATION: u32 = 6;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

impl Arp {
    /// Whether it is a question or an answer about IPv4 addresses on Ethernet.
    #[inline(always)]
    pub(crate) fn is_valid(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == 0x0800
            && self.lengths == [6, 4]
            && matches!(self.operation.get(), ARP_REQUEST | ARP_REPLY)
    }

    #[inline(always)]
    pub(crate) fn is_request(&self) -> bool {
        self.operation.get() == ARP_REQUEST
    }

    #[inline(always)]
    pub(crate) fn sender(&self) -> AddrV4 {
        AddrV4::new(self.sender_addr)
    }

    #[inline(always)]
    pub(crate) fn target(&self) -> AddrV4 {
        AddrV4::new(self.target_addr)
    }

    #[inline(always)]
    pub(crate) fn is_for_gateway(&self) -> bool {
        self.target() == AddrV4::new(GATEWAY_V4)
    }
}

/// Reads an ARP packet.
#[inline(always)]
pub(crate) fn arp(ctx: &TcContext) -> Result<Arp, DropReason> {
    read(ctx, 0)
}

/// From the operation on.
#[derive(Clone, Copy)]
#[repr(C)]
struct ArpAnswer {
    operation: Be16,
    sender_mac: MacAddr,
    sender_addr: [u8; 4],
    target_mac: MacAddr,
    target_addr: [u8; 4],
}

/// Turns the question who has the gateway's address into the answer.
#[inline(always)]
pub(crate) fn answer_arp(ctx: &TcContext, question: &Arp, gateway_mac: MacAddr) -> Result<(), DropReason> {
    let answer = ArpAnswer {
        operation: Be16::new(ARP_REPLY),
        sender_mac: gateway_mac,
        sender_addr: GATEWAY_V4,
        target_mac: question.sender_mac,
        target_addr: question.sender_addr,
    };
    store(ctx, ETH_LEN + ARP_OPERATION, &answer)?;
    set_macs(ctx, question.sender_mac, gateway_mac)?;
    to_host_type(ctx);
    Ok(())
}

/// What a packet of the kind `Link` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    RouterSolicitation,
    Solicitation,
    Advertisement,
    Listener,
}

/// The start of neighbour discovery packets; of others only the first eight bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

/// An option, if it is one with an Ethernet address.
#[derive(Clone, Copy)]
#[repr(C)]
struct LinkLayer {
    kind: u8,
    /// In units of eight bytes.
    len: u8,
    mac: MacAddr,
}

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

const HEAD_LEN: u32 = 8;
const TARGET_LEN: u32 = 16;
/// Hop limits that no packet has which was routed, and which no router passes on.
const DISCOVERY_HOP_LIMIT: u8 = 255;
const LISTENER_HOP_LIMIT: u8 = 1;

/// Reads what a packet of the kind `Link` is, if it is as its RFC wants it.
#[inline(always)]
pub(crate) fn says(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<Says, DropReason> {
    let head: Head = read(ctx, packet.l4_offset)?;
    let (says, hop_limit) = match head.kind {
        icmpv6::ROUTER_SOLICITATION => (Says::RouterSolicitation, DISCOVERY_HOP_LIMIT),
        icmpv6::NEIGHBOUR_SOLICITATION => (Says::Solicitation, DISCOVERY_HOP_LIMIT),
        icmpv6::NEIGHBOUR_ADVERTISEMENT => (Says::Advertisement, DISCOVERY_HOP_LIMIT),
        _ => (Says::Listener, LISTENER_HOP_LIMIT),
    };
    let is_plain = packet.l4_offset == ETH_LEN + V6::HEADER_LEN;
    // A listener report carries a router alert, discovery no extension header at all.
    if packet.hop_limit != hop_limit || head.code != 0 || (says != Says::Listener && !is_plain) {
        return Err(DropReason::NeighbourMalformed);
    }
    Ok(says)
}

/// The address that a solicitation or an advertisement is about.
#[inline(always)]
pub(crate) fn target(ctx: &TcContext, packet: &Packet<AddrV6>) -> Result<AddrV6, DropReason> {
    read(ctx, packet.l4_offset + HEAD_LEN)
}

/// Whether the first option (of a solicitation, or of an advertisement) names another link-layer address than this
/// one. A kernel sends one option, and the answers here trust none.
#[inline(always)]
pub(crate) fn has_false_option(
    ctx: &TcContext,
    packet: &Packet<AddrV6>,
    is_solicitation: bool,
    mac: MacAddr,
) -> Result<bool, DropReason> {
    let offset = packet.l4_offset + HEAD_LEN + TARGET_LEN;
    if ctx.len() == offset {
        return Ok(false);
    }
    let option: LinkLayer = read(ctx, offset).map_err(|_| DropReason::NeighbourMalformed)?;
    let kind = if is_solicitation { OPTION_SOURCE } else { OPTION_TARGET };
    if option.len == 0 || (option.kind == kind && option.len != 1) {
        return Err(DropReason::NeighbourMalformed);
    }
    Ok(option.kind == kind && option.mac != mac)
}

/// The link-layer address that the frame is for.
#[inline(always)]
pub(crate) fn frame_destination(ctx: &TcContext) -> Result<MacAddr, DropReason> {
    read(ctx, 0)
}

/// The words of an answer: header, target, option with the target's link-layer address.
const ANSWER_WORDS: usize = 8;
const ANSWER_LEN: u8 = 32;
/// The sender is a router, it was asked, and what it says replaces what was known.
const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;

/// Turns the question where the gateway is into the answer.
#[inline(always)]
pub(crate) fn answer_solicitation(
    ctx: &TcContext,
    packet: &Packet<AddrV6>,
    gateway_mac: MacAddr,
) -> Result<(), DropReason> {
    let [t0, t1, t2, t3] = GATEWAY.0;
    let [m0, m1, m2, m3, m4, m5] = gateway_mac;
    let mut words: [u32; ANSWER_WORDS] = [
        u32::from_ne_bytes([icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0]),
        u32::from_ne_bytes([ROUTER_SOLICITED_OVERRIDE, 0, 0, 0]),
        t0,
        t1,
        t2,
        t3,
        u32::from_ne_bytes([OPTION_TARGET, 1, m0, m1]),
        u32::from_ne_bytes([m2, m3, m4, m5]),
    ];
    let asker = packet.tuple.source;
    let mut sum = V6::sum(&GATEWAY)
        + V6::sum(&asker)
        + u64::from(Be16::new(u16::from(proto::ICMPV6)).raw())
        + u64::from(Be16::new(u16::from(ANSWER_LEN)).raw());
    for word in words {
        sum += u64::from(word);
    }
    let [high, low] = csum::fold(sum).to_ne_bytes();
    words[0] = u32::from_ne_bytes([icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, high, low]);
    let len = packet.l4_offset + u32::from(ANSWER_LEN);
    // SAFETY: the helper only reads its arguments and changes the packet.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) } != 0 {
        return Err(DropReason::NeighbourMalformed);
    }
    store(ctx, ETH_LEN, &[0x60u8, 0, 0, 0, 0, ANSWER_LEN, proto::ICMPV6, DISCOVERY_HOP_LIMIT])?;
    store(ctx, ETH_LEN + V6::SOURCE_OFFSET, &GATEWAY)?;
    store(ctx, ETH_LEN + V6::DESTINATION_OFFSET, &asker)?;
    store(ctx, packet.l4_offset, &words)?;
    set_macs(ctx, packet.source_mac, gateway_mac)?;
    to_host_type(ctx);
    Ok(())
}

/// A question is often sent to a group; its answer is for one host, and the kernel holds it for what the frame was.
#[inline(always)]
fn to_host_type(ctx: &TcContext) {
    const PACKET_HOST: u32 = 0;
    // SAFETY: the helper only changes a field of the packet's description. Where it cannot, the answer is weaker, not
    // wrong: a neighbour is then asked again sooner.
    unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
}
