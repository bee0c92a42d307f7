//! Compiled NetworkPolicy.
//!
//! A *policy set* is what a group of local pods shares: the same policies of one direction, with the same
//! resolved named ports. A *class* stands for the set of selectors that a peer matches: pods have one in
//! `CLASSES_*` (exact address), address ranges have one in `CIDRS_*` (longest prefix). A new flow is judged by
//! at most three look-ups of `POLICIES`: the peer's pod class, its CIDR class, and [`CLASS_ANY`].
//! Every match is an allow (the union semantics of NetworkPolicy); no match is a deny.
use crate::net::Be16;

/// The class of the rules that name no peer: they match everything.
pub const CLASS_ANY: u32 = 0;

/// A set that isolates and allows nothing. Used while the real set cannot be written: fail closed.
pub const SET_DENY_ALL: u32 = u32::MAX;

abi! {
    /// Key of `POLICIES` (a longest-prefix trie) behind its prefix length; see [`PolicyKey::prefix_len`].
    pub struct PolicyKey = 12 {
        /// Policy set, big-endian.
        pub set: [u8; 4],
        /// Class of the peer, big-endian.
        pub class: [u8; 4],
        /// L4 protocol.
        pub proto: u8,
        pub reserved: u8,
        /// Destination port; a range of ports is a few prefixes of this field.
        pub port: Be16,
    }
}

impl PolicyKey {
    /// Bits before the protocol: a prefix of this length matches every protocol.
    pub const ANY_PROTO_BITS: u32 = 64;
    /// Bits before the port: a prefix of this length matches every port of one protocol.
    pub const ANY_PORT_BITS: u32 = 80;
    /// The longest prefix: one port.
    pub const FULL_BITS: u32 = 96;

    /// Builds a key. Look-ups use it with [`Self::FULL_BITS`].
    #[must_use]
    #[inline(always)]
    pub const fn new(set: u32, class: u32, proto: u8, port: Be16) -> Self {
        Self { set: set.to_be_bytes(), class: class.to_be_bytes(), proto, reserved: 0, port }
    }

    /// The prefix length of an entry whose port field has `port_bits` significant bits.
    #[must_use]
    pub const fn prefix_len(port_bits: u32) -> u32 {
        Self::ANY_PORT_BITS + port_bits
    }
}

abi! {
    /// Value of `POLICIES`.
    pub struct PolicyValue = 8 {
        /// The rule that allows, as in the agent's catalog.
        pub rule: u32,
        /// See [`verdict`].
        pub verdict: u8,
        pub reserved: [u8; 3],
    }
}

/// Values of [`PolicyValue::verdict`].
pub mod verdict {
    pub const ALLOW: u8 = 1;
}

/// Direction of a policy, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    Ingress = 1,
    Egress = 2,
}

abi! {
    /// Key of `DENIED_FLOWS`: a flow that policy dropped. IPv4 addresses are IPv4-mapped (RFC 4291 §2.5.5.2).
    pub struct DeniedFlowKey = 40 {
        pub source: [u8; 16],
        pub destination: [u8; 16],
        pub port: Be16,
        pub proto: u8,
        /// A [`Direction`].
        pub direction: u8,
        /// The policy set that denied.
        pub set: u32,
    }
}

abi! {
    /// Value of `DENIED_FLOWS`.
    pub struct DeniedFlowValue = 16 {
        /// Jiffies of the last packet.
        pub last_seen: u64,
        pub packets: u64,
    }
}
