//! Fragmented datagrams: what their fragments share, what only the first one says, and those that came before it.
use crate::net::{AddrV4, AddrV6, Be16};

abi! {
    /// Key of `FRAGMENTS_V4`: what the fragments of one datagram share (RFC 791).
    pub struct FragmentKeyV4 = 16 {
        pub source: AddrV4,
        pub destination: AddrV4,
        pub id: u32,
        pub proto: u8,
        pub reserved: [u8; 3],
    }
}

abi! {
    /// Key of `FRAGMENTS_V6`: what the fragments of one datagram share (RFC 8200 §4.5). Their next headers are none of
    /// it: only the first one's counts, and extension headers may follow it.
    pub struct FragmentKeyV6 = 36 {
        pub source: AddrV6,
        pub destination: AddrV6,
        pub id: u32,
    }
}

abi! {
    /// Value of `FRAGMENTS_*`: what only the first fragment says.
    pub struct FragmentValue = 16 {
        /// When it came, by the kernel's monotonic clock; see [`REMEMBERED_NS`].
        pub seen_at: u64,
        pub source_port: Be16,
        pub destination_port: Be16,
        /// Where its L4 header ends, in bytes of the datagram: a later fragment that begins before would overlap it.
        pub header_end: u16,
        pub proto: u8,
        pub reserved: u8,
    }
}

/// A first fragment is remembered for so long: then its identification may belong to another datagram.
pub const REMEMBERED_NS: u64 = 5_000_000_000;

abi! {
    /// Key of `EARLY_FRAGMENTS`, and with the place 0 of `EARLY_RINGS`: each pod interface has rings of its own, so that
    /// what waits there takes no place from others.
    pub struct EarlyKey = 8 {
        /// Host side of the pod's veth pair.
        pub ifindex: u32,
        /// The hook that holds it; what the host itself sent apart.
        pub side: u16,
        /// Below [`PLACES`].
        pub place: u16,
    }
}

/// Places of a ring. Each costs the verifier of every hook, which walks all of them.
pub const PLACES: u16 = 16;

/// A fragment waits for the first one of its datagram for so long.
pub const HELD_NS: u64 = 1_000_000_000;

abi! {
    /// Value of `EARLY_RINGS`.
    pub struct EarlyRing = 16 {
        /// When a fragment was held last.
        pub held_at: u64,
        /// The next place to use, modulo [`PLACES`].
        pub next: u32,
        pub reserved: u32,
    }
}

/// The longest frame that is held.
pub const FRAME_MAX: usize = 1992;

/// Instead of the time when it came: it is being sent round again.
pub const CLAIMED: u64 = 0;

abi! {
    /// Value of `EARLY_FRAGMENTS`: a fragment that came before the first one of its datagram.
    pub struct EarlyFragment = 2048 {
        /// When it came, or [`CLAIMED`].
        pub held_at: u64,
        pub datagram: Datagram,
        pub len: u32,
        pub reserved: u32,
        pub frame: [u8; FRAME_MAX],
    }
}

abi! {
    /// Tells datagrams apart, in both families: IPv4 addresses are IPv4-mapped (RFC 4291 §2.5.5.2).
    pub struct Datagram = 40 {
        pub source: [u64; 2],
        pub destination: [u64; 2],
        pub id: u32,
        /// 0 in IPv6.
        pub proto: u32,
    }
}

impl Datagram {
    /// Whether both are the same. Without branches, which the verifier would walk each by itself.
    #[must_use]
    #[inline(always)]
    pub fn is(&self, other: &Self) -> bool {
        let [a, b] = [self, other];
        let difference = (a.source[0] ^ b.source[0])
            | (a.source[1] ^ b.source[1])
            | (a.destination[0] ^ b.destination[0])
            | (a.destination[1] ^ b.destination[1])
            | u64::from((a.id ^ b.id) | (a.proto ^ b.proto));
        difference == 0
    }
}
