//! Fragmented datagrams: what their fragments share, and what only the first one says.
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
    /// Key of `FRAGMENTS_V6`: what the fragments of one datagram share (RFC 8200 §4.5).
    pub struct FragmentKeyV6 = 40 {
        pub source: AddrV6,
        pub destination: AddrV6,
        pub id: u32,
        pub proto: u8,
        pub reserved: [u8; 3],
    }
}

abi! {
    /// Value of `FRAGMENTS_*`: the ports, which only the first fragment carries.
    pub struct FragmentValue = 4 {
        pub source_port: Be16,
        pub destination_port: Be16,
    }
}
