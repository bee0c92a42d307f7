//! Total parsing. The only module that knows packet offsets.
pub(crate) mod fragment;
mod ipv4;
mod ipv6;
mod l4;
pub(crate) mod neighbour;
mod reject;
mod write;

use aya_ebpf::{
    helpers::generated::{bpf_check_mtu, bpf_skb_load_bytes},
    programs::TcContext,
};
use dataplane_common::{
    net::{MacAddr, proto},
    verdict::DropReason,
};

pub(crate) use self::{
    l4::{Embedded, embedded},
    reject::reject,
    write::{decrement_hop_limit, rewrite, rewrite_embedded, set_macs},
};
use crate::{flow::Tuple, tables::Fragments};

/// Length of the Ethernet header.
const ETH_LEN: u32 = 14;

/// EtherTypes, as `skb->protocol` holds them (network byte order).
pub(crate) mod ethertype {
    use dataplane_common::net::Be16;

    pub(crate) const IPV4: u32 = Be16::new(0x0800).raw() as u32;
    pub(crate) const ARP: u32 = Be16::new(0x0806).raw() as u32;
    pub(crate) const IPV6: u32 = Be16::new(0x86dd).raw() as u32;
}

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// What a packet is to a stateful filter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Part of a flow: TCP, UDP or SCTP with their ports, ICMP echo with its identifier as both ports, another
    /// protocol without ports.
    Flow,
    /// An ICMP error about another packet.
    IcmpError,
    /// Neighbour discovery and multicast listener reports: never beyond the link they are sent on.
    Link,
    /// What only a router may send: advertisement, redirect, listener query.
    Forbidden,
}

/// Place of a packet in its datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    Whole,
    First,
    /// Not the first, but the first one was seen and gave its ports.
    Later,
    /// Not the first, and the ports are not known.
    Orphan,
}

/// A parsed packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet<A> {
    pub(crate) tuple: Tuple<A>,
    pub(crate) source_mac: MacAddr,
    pub(crate) kind: Kind,
    pub(crate) fragment: Fragment,
    /// What the fragments of one datagram share; 0 unless it is one.
    pub(crate) fragment_id: u32,
    /// Where the L4 header ends, in bytes of the datagram; 0 unless [`Fragment::First`].
    pub(crate) header_end: u16,
    /// 0 unless TCP.
    pub(crate) tcp_flags: u8,
    /// Checksum of the IPv4 header; 0 in IPv6.
    pub(crate) ip_checksum: u16,
    pub(crate) hop_limit: u8,
    /// Offset of the header after the IP headers.
    pub(crate) l4_offset: u32,
}

impl<A: Copy> Packet<A> {
    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether the packet is of a TCP connection that it does not open.
    #[inline(always)]
    pub(crate) fn is_mid_stream(&self) -> bool {
        self.tuple.proto == proto::TCP && !self.is_syn()
    }

    /// Whether the packet belongs to a TCP connection that somebody may hold open.
    #[inline(always)]
    pub(crate) fn continues_connection(&self) -> bool {
        self.tuple.proto == proto::TCP
            && self.fragment == Fragment::Whole
            && self.tcp_flags & (tcp::SYN | tcp::RST) == 0
    }

    /// Whether a rejection may answer the packet: not an error, a reset or a part of a datagram (RFC 1122 §3.2.2).
    #[inline(always)]
    pub(crate) fn is_answerable(&self) -> bool {
        self.kind == Kind::Flow && self.fragment == Fragment::Whole && self.tcp_flags & tcp::RST == 0
    }

    /// Whether this packet carries the L4 header.
    #[inline(always)]
    pub(crate) fn has_l4_header(&self) -> bool {
        matches!(self.fragment, Fragment::Whole | Fragment::First)
    }
}

/// A family whose packets can be parsed.
pub(crate) trait Parse: Fragments {
    /// Parses the headers up to L4 into `packet`.
    fn parse(ctx: &TcContext, packet: &mut Packet<Self::Addr>) -> Result<(), DropReason>;
    /// Parses the IP header of a packet that an ICMP error quotes: its tuple (without ports) and where its L4
    /// header starts.
    fn parse_embedded(ctx: &TcContext, offset: u32) -> Result<(Tuple<Self::Addr>, u32), DropReason>;
    /// Length of an IP header without options.
    const HEADER_LEN: u32;
    /// Offset of what says what follows the IP header.
    const PROTOCOL_OFFSET: u32;
    /// Offset of the source address in the IP header.
    const SOURCE_OFFSET: u32;
    /// Offset of the destination address in the IP header.
    const DESTINATION_OFFSET: u32;
    /// Writes other addresses, whose words differ by `difference`, and the ports if they follow the header: in one
    /// call, because each costs some 20 ns.
    fn write_tuple(
        ctx: &TcContext,
        packet: &Packet<Self::Addr>,
        new: &Tuple<Self::Addr>,
        difference: u32,
        with_ports: bool,
    ) -> Result<(), DropReason>;
}

/// Reads a `T` at `offset`; the packet may be non-linear.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the size of a small structure")]
fn read<T: Copy>(ctx: &TcContext, offset: u32) -> Result<T, DropReason> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `value` or returns an error; every `T` used here accepts any bytes.
    unsafe {
        match bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
        {
            0 => Ok(value.assume_init()),
            _ => Err(DropReason::Truncated),
        }
    }
}

/// Whether the packet carries a VLAN tag that the driver took out of its bytes.
#[inline(always)]
pub(crate) fn has_vlan_tag(ctx: &TcContext) -> bool {
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// `skb->protocol`.
#[inline(always)]
pub(crate) fn protocol(ctx: &TcContext) -> u32 {
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.skb.skb).protocol }
}

/// Whether the link layer addressed the packet to this host, and to no other and no group.
#[inline(always)]
pub(crate) fn is_for_host(ctx: &TcContext) -> bool {
    const PACKET_HOST: u32 = 0;
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// The link-layer address that the frame was sent to.
#[inline(always)]
pub(crate) fn destination_mac(ctx: &TcContext) -> Result<MacAddr, DropReason> {
    read(ctx, 0)
}

/// Where the packet goes, before it is parsed.
#[inline(always)]
pub(crate) fn destination<F: Parse>(ctx: &TcContext) -> Result<F::Addr, DropReason> {
    read(ctx, ETH_LEN + F::DESTINATION_OFFSET)
}

/// Where the packet comes from, before it is parsed.
#[inline(always)]
pub(crate) fn source<F: Parse>(ctx: &TcContext) -> Result<F::Addr, DropReason> {
    read(ctx, ETH_LEN + F::SOURCE_OFFSET)
}

/// Whether an ICMP message follows the IP header, before the packet is parsed.
#[inline(always)]
pub(crate) fn is_icmp<F: Parse>(ctx: &TcContext) -> bool {
    read::<u8>(ctx, ETH_LEN + F::PROTOCOL_OFFSET) == Ok(F::ICMP)
}

/// Whether an interface carries the packet, or every segment that becomes of it. The interface is asked each time: no
/// copy of its MTU can be out of date. Only packets larger than every link must carry (RFC 791) pay for it.
///
/// Needs `bpf_check_mtu`: v5.12, 34b2021cc616.
#[inline(always)]
pub(crate) fn fits(ctx: &TcContext, ifindex: u32) -> bool {
    const EVERY_LINK: u32 = ETH_LEN + 576;
    /// `BPF_MTU_CHK_SEGS`: what will be cut into segments is judged by them.
    const SEGMENTS: u64 = 1;
    let mut mtu = 0;
    // SAFETY: the helper reads the packet and writes `mtu`.
    ctx.len() <= EVERY_LINK
        || unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, SEGMENTS) } == 0
}

/// The interface the hook is attached to.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// The interface the packet came in on; 0 when a process of this host sent it.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: reads a field of the context.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}
