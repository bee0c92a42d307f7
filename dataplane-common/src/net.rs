//! Network types whose byte order is part of the type.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit value in network byte order.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// Converts from host byte order.
    #[must_use]
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// Takes the two bytes as they stand in a packet.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// Converts to host byte order.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The value as it stands in a packet or a kernel structure.
    #[must_use]
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// An Ethernet address.
pub type MacAddr = [u8; 6];

/// An IPv4 address in network byte order: an integer, so that the programs compare it in one instruction.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct AddrV4(pub u32);

impl AddrV4 {
    /// Takes the address as its four octets.
    #[must_use]
    #[inline(always)]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The one order of addresses in the maps, that of [`Ord`]: by the word as it stands, which costs the programs
    /// no conversion and means nothing to a reader.
    #[must_use]
    #[inline(always)]
    pub const fn is_below(self, other: Self) -> bool {
        self.0 < other.0
    }

    /// The four octets, as in a packet.
    #[must_use]
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

/// An IPv6 address in network byte order, as four words.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct AddrV6(pub [u32; 4]);

impl AddrV6 {
    /// Takes the address as its sixteen octets.
    #[must_use]
    #[inline(always)]
    pub const fn new(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Whether this stands for the lack of an address (`::`).
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// Whether the address means something on one link only (`fe80::/10`).
    #[must_use]
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        let [first, ..] = self.0;
        first & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
    }

    /// Whether this is the address of a group, of any scope (`ff00::/8`).
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        let [first, ..] = self.0;
        first & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([0xff, 0, 0, 0])
    }

    /// Whether this is the address of a group on one link (`ff02::/16`).
    #[must_use]
    #[inline(always)]
    pub const fn is_link_multicast(&self) -> bool {
        let [first, ..] = self.0;
        first & u32::from_ne_bytes([0xff, 0xff, 0, 0]) == u32::from_ne_bytes([0xff, 2, 0, 0])
    }

    /// The group in which who has the address hears who looks for it (RFC 4291 §2.7.1).
    #[must_use]
    #[inline(always)]
    pub const fn solicited_node(&self) -> Self {
        let [.., last] = self.0;
        let [_, x, y, z] = last.to_ne_bytes();
        Self([
            u32::from_ne_bytes([0xff, 2, 0, 0]),
            0,
            u32::from_ne_bytes([0, 0, 0, 1]),
            u32::from_ne_bytes([0xff, x, y, z]),
        ])
    }

    /// The one order of addresses in the maps, that of [`Ord`]: as for [`AddrV4::is_below`], word by word.
    #[must_use]
    #[inline(always)]
    pub const fn is_below(self, other: Self) -> bool {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, other.0);
        if a0 != b0 {
            return a0 < b0;
        }
        if a1 != b1 {
            return a1 < b1;
        }
        if a2 != b2 {
            return a2 < b2;
        }
        a3 < b3
    }

    /// An IPv4 address as IPv6 sockets write it, `::ffff:a.b.c.d`.
    #[must_use]
    #[inline(always)]
    pub const fn mapped(addr: AddrV4) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), addr.0])
    }

    /// The sixteen octets, as in a packet.
    #[must_use]
    pub fn octets(self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(self.as_bytes());
        out
    }
}

/// Protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    fn addr(text: &str) -> AddrV6 {
        AddrV6::new(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn scopes_are_those_of_the_standard_library() {
        for text in [
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
            "ff02::1",
            "ff05::1",
            "ff12::1",
        ] {
            let (ours, theirs) = (addr(text), text.parse::<Ipv6Addr>().unwrap());
            assert_eq!(ours.is_unspecified(), theirs.is_unspecified(), "{text}");
            assert_eq!(ours.is_link_local(), theirs.is_unicast_link_local(), "{text}");
            assert_eq!(ours.is_multicast(), theirs.is_multicast(), "{text}");
            assert_eq!(ours.is_link_multicast(), text.starts_with("ff02:"), "{text}");
        }
    }

    #[test]
    fn the_solicited_node_group_is_that_of_the_rfcs_example() {
        assert_eq!(addr("4037::1:800:200e:8c6c").solicited_node(), addr("ff02::1:ff0e:8c6c"));
    }

    #[test]
    fn the_programs_and_user_space_order_addresses_alike() {
        let words = [0, 1, 0x100, 0x0100_0000, 0x00ff_ffff, 0x8000_0000, u32::MAX];
        for a in words {
            for b in words {
                assert_eq!(AddrV4(a).is_below(AddrV4(b)), AddrV4(a) < AddrV4(b));
                for place in 0..4 {
                    let (mut one, mut other) = ([7; 4], [7; 4]);
                    (one[place], other[place]) = (a, b);
                    // What stands behind the word that differs decides nothing.
                    if place < 3 && a != b {
                        (one[3], other[3]) = (b, a);
                    }
                    assert_eq!(AddrV6(one).is_below(AddrV6(other)), AddrV6(one) < AddrV6(other));
                }
            }
        }
    }
}
