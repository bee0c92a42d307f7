//! The two address families behind one trait, so that every stage is written once. Their maps are in [`crate::tables`].
use dataplane_common::{
    config,
    net::{AddrV4, AddrV6, proto},
};

use crate::{
    flow::{Scratch, Tuple},
    maps::{SCRATCH_V4, SCRATCH_V6},
};

/// IPv4.
pub(crate) struct V4;
/// IPv6.
pub(crate) struct V6;

/// An address family: its arithmetic, and working memory for it.
pub(crate) trait Family: Sized {
    type Addr: Copy + PartialEq + 'static;

    const IS_V6: bool;
    /// Bits of an address.
    const BITS: u32 = if Self::IS_V6 { 128 } else { 32 };
    /// The kernel's number.
    const NUMBER: u8 = if Self::IS_V6 { 10 } else { 2 };
    /// What a flow that is not translated writes to its packets.
    const NO_TUPLE: Tuple<Self::Addr>;
    const ICMP: u8;
    /// What a pod sees as the source when it reaches itself through a service.
    const HAIRPIN: Self::Addr;

    /// Whether nothing to this address leaves a link. In IPv4, clouds and clusters have services at such addresses.
    fn is_link_local(addr: &Self::Addr) -> bool;
    /// As the kernel's structures hold it: an IPv4 address is the first word.
    fn words(addr: &Self::Addr) -> [u32; 4];
    /// Whether an address can be that of one host: it is answered, others are not (RFC 1122 §3.2.2).
    fn is_unicast(addr: &Self::Addr) -> bool;
    /// IPv4-mapped where needed.
    fn mapped(addr: &Self::Addr) -> [u8; 16];
    /// The same, as an address of the maps.
    fn to_v6(addr: &Self::Addr) -> AddrV6;
    /// Undoes [`Self::to_v6`].
    fn from_v6(addr: &AddrV6) -> Self::Addr;
    /// Sum of the address's words, for checksums.
    fn sum(addr: &Self::Addr) -> u64;
    /// The order of the maps: both directions of a flow see the same, and the backends of a frontend lie in it.
    fn is_below(a: &Self::Addr, b: &Self::Addr) -> bool;

    /// Working memory of this CPU; programs do not preempt each other on one CPU.
    fn scratch() -> Option<*mut Scratch<Self::Addr>>;
}

impl Family for V4 {
    type Addr = AddrV4;

    const IS_V6: bool = false;
    const NO_TUPLE: Tuple<AddrV4> = Tuple::none(AddrV4(0));
    const ICMP: u8 = proto::ICMP;
    const HAIRPIN: AddrV4 = AddrV4::new(config::HAIRPIN_V4);

    #[inline(always)]
    fn scratch() -> Option<*mut Scratch<AddrV4>> {
        SCRATCH_V4.get_ptr_mut(0)
    }

    #[inline(always)]
    fn words(addr: &AddrV4) -> [u32; 4] {
        [addr.0, 0, 0, 0]
    }

    #[inline(always)]
    fn is_unicast(addr: &AddrV4) -> bool {
        let [first, ..] = addr.octets();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn is_link_local(_: &AddrV4) -> bool {
        false
    }

    #[inline(always)]
    fn mapped(addr: &AddrV4) -> [u8; 16] {
        let [a, b, c, d] = addr.octets();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    #[inline(always)]
    fn to_v6(addr: &AddrV4) -> AddrV6 {
        AddrV6::mapped(*addr)
    }

    #[inline(always)]
    fn from_v6(addr: &AddrV6) -> AddrV4 {
        let [.., last] = addr.0;
        AddrV4(last)
    }

    #[inline(always)]
    fn sum(addr: &AddrV4) -> u64 {
        u64::from(addr.0)
    }

    #[inline(always)]
    fn is_below(a: &AddrV4, b: &AddrV4) -> bool {
        a.is_below(*b)
    }
}

impl Family for V6 {
    type Addr = AddrV6;

    const IS_V6: bool = true;
    const NO_TUPLE: Tuple<AddrV6> = Tuple::none(AddrV6([0; 4]));
    const ICMP: u8 = proto::ICMPV6;
    const HAIRPIN: AddrV6 = AddrV6::new(config::HAIRPIN_V6);

    #[inline(always)]
    fn scratch() -> Option<*mut Scratch<AddrV6>> {
        SCRATCH_V6.get_ptr_mut(0)
    }

    #[inline(always)]
    fn words(addr: &AddrV6) -> [u32; 4] {
        addr.0
    }

    #[inline(always)]
    fn is_unicast(addr: &AddrV6) -> bool {
        let [a, b, c, d] = addr.0;
        // Neither `::` nor `::1`, nor a group.
        (a | b | c | (d & !1u32.to_be())) != 0 && a & 0xff00_0000_u32.to_be() != 0xff00_0000_u32.to_be()
    }

    #[inline(always)]
    fn is_link_local(addr: &AddrV6) -> bool {
        addr.is_link_local()
    }

    #[inline(always)]
    fn mapped(addr: &AddrV6) -> [u8; 16] {
        let [a, b, c, d] = addr.0;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    #[inline(always)]
    fn to_v6(addr: &AddrV6) -> AddrV6 {
        *addr
    }

    #[inline(always)]
    fn from_v6(addr: &AddrV6) -> AddrV6 {
        *addr
    }

    #[inline(always)]
    fn sum(addr: &AddrV6) -> u64 {
        let [a, b, c, d] = addr.0;
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }

    #[inline(always)]
    fn is_below(a: &AddrV6, b: &AddrV6) -> bool {
        a.is_below(*b)
    }
}
