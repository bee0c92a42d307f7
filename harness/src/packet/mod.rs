//! Packets as tests write and read them: a value with public fields, bytes out (`build`), bytes in (`parse`), and
//! the text form `10.0.0.5:4000 > 10.96.0.10:53 udp` (`text`).
//!
//! Nothing here is shared with the programs under test, checksums included.
mod build;
mod checksum;
mod fragment;
mod parse;
#[cfg(test)]
mod tests;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::{
    checksum::internet_checksum,
    parse::{PacketError, parse, verify},
    text::TextError,
};

/// An Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Tag control information of each VLAN tag, outermost first.
    pub vlans: Vec<u16>,
    pub network: Network,
}

/// What the frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    V4(Ipv4),
    V6(Ipv6),
    /// Not IP: ARP, LLDP and whatever else a pod may send.
    Other {
        ethertype: u16,
        bytes: Vec<u8>,
    },
}

/// An IPv4 packet (RFC 791).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// Padded to whole words when built.
    pub options: Vec<u8>,
    pub payload: Payload,
}

/// An IPv6 packet (RFC 8200).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub traffic_class: u8,
    pub flow_label: u32,
    pub hop_limit: u8,
    /// Headers before the payload, without the fragment header.
    pub extensions: Vec<Extension>,
    pub payload: Payload,
}

/// An IPv6 extension header that is not the fragment header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub kind: ExtensionKind,
    /// What follows the next-header and length bytes; padded to whole 8-byte words when built.
    pub body: Vec<u8>,
}

/// Kinds of extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionKind {
    HopByHop,
    Routing,
    DestinationOptions,
    /// RFC 4302; its length field counts in other units.
    Authentication,
    Mobility,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Whole(Transport),
    /// A piece of a fragmented datagram.
    Fragment {
        /// Identification: 16 bits and the same as [`Ipv4::id`] in IPv4, 32 bits in IPv6.
        id: u32,
        /// In units of 8 bytes.
        offset: u16,
        more: bool,
        proto: u8,
        bytes: Vec<u8>,
    },
}

/// A transport packet. Lengths and checksums are filled in when built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        options: Vec<u8>,
        data: Vec<u8>,
    },
    Udp {
        source: u16,
        destination: u16,
        checksum: UdpChecksum,
        data: Vec<u8>,
    },
    /// The SCTP common header (RFC 9260 §3.1); the `CRC32c` is computed.
    Sctp {
        source: u16,
        destination: u16,
        tag: u32,
        data: Vec<u8>,
    },
    /// ICMP in IPv4, `ICMPv6` in IPv6, by the packet it stands in.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        data: Vec<u8>,
    },
    Other {
        proto: u8,
        bytes: Vec<u8>,
    },
}

/// What a UDP datagram says about its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    Computed,
    /// Zero: not used (allowed in IPv4 only).
    Absent,
}

/// TCP flags (RFC 9293 §3.1).
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// Protocol numbers used inside this module.
mod proto {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const NO_NEXT_HEADER: u8 = 59;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const SCTP: u8 = 132;
    pub(super) const MOBILITY: u8 = 135;
}

/// Ethertypes used inside this module.
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const SERVICE_VLAN: u16 = 0x88a8;
}

/// Sender of a packet that says nothing else.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Receiver of a packet that says nothing else.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Packet {
    /// A packet with everything ordinary but its addresses and payload.
    ///
    /// # Panics
    /// When the addresses are of two families.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        let network = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Network::V4(Ipv4 {
                source,
                destination,
                tos: 0,
                ttl: 64,
                id: 0x4d69,
                dont_fragment: false,
                options: Vec::new(),
                payload: Payload::Whole(transport),
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Network::V6(Ipv6 {
                source,
                destination,
                traffic_class: 0,
                flow_label: 0,
                hop_limit: 64,
                extensions: Vec::new(),
                payload: Payload::Whole(transport),
            }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("{source} and {destination} are of two families")
            }
        };
        Self { source_mac: SOURCE_MAC, destination_mac: DESTINATION_MAC, vlans: Vec::new(), network }
    }

    /// The same packet between other link-layer addresses.
    #[must_use]
    pub fn between(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Source and destination address, when it is an IP packet.
    #[must_use]
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match &self.network {
            Network::V4(ip) => Some((ip.source.into(), ip.destination.into())),
            Network::V6(ip) => Some((ip.source.into(), ip.destination.into())),
            Network::Other { .. } => None,
        }
    }

    /// What the IP packet carries.
    #[must_use]
    pub const fn payload(&self) -> Option<&Payload> {
        match &self.network {
            Network::V4(ip) => Some(&ip.payload),
            Network::V6(ip) => Some(&ip.payload),
            Network::Other { .. } => None,
        }
    }

    /// The transport packet, unless it is fragmented.
    #[must_use]
    pub const fn transport(&self) -> Option<&Transport> {
        match self.payload() {
            Some(Payload::Whole(transport)) => Some(transport),
            Some(Payload::Fragment { .. }) | None => None,
        }
    }

    /// The transport packet, to change it.
    pub const fn transport_mut(&mut self) -> Option<&mut Transport> {
        let payload = match &mut self.network {
            Network::V4(ip) => &mut ip.payload,
            Network::V6(ip) => &mut ip.payload,
            Network::Other { .. } => return None,
        };
        match payload {
            Payload::Whole(transport) => Some(transport),
            Payload::Fragment { .. } => None,
        }
    }
}

impl Transport {
    /// A TCP segment without data.
    #[must_use]
    pub const fn tcp(source: u16, destination: u16, flags: u8) -> Self {
        Self::Tcp {
            source,
            destination,
            flags,
            sequence: 0,
            acknowledgement: 0,
            options: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A UDP datagram with a checksum.
    #[must_use]
    pub const fn udp(source: u16, destination: u16, data: Vec<u8>) -> Self {
        Self::Udp { source, destination, checksum: UdpChecksum::Computed, data }
    }

    /// An ICMP error of this type and code about a packet, quoting its IP header and the first `quoted` bytes of
    /// what follows (RFC 792 wants 8, RFC 4443 as much as fits).
    ///
    /// # Panics
    /// When `about` is not an IP packet.
    #[must_use]
    pub fn icmp_error(kind: u8, code: u8, rest: [u8; 4], about: &Packet, quoted: usize) -> Self {
        let mut data = about.ip_bytes().expect("an ICMP error is about an IP packet");
        let header = match &about.network {
            Network::V4(ip) => 20 + ip.options.len().next_multiple_of(4),
            Network::V6(_) | Network::Other { .. } => 40,
        };
        data.truncate(header + quoted);
        Self::Icmp { kind, code, rest, data }
    }

    /// The two ports, when the protocol has ports.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp { source, destination, .. }
            | Self::Udp { source, destination, .. }
            | Self::Sctp { source, destination, .. } => Some((*source, *destination)),
            Self::Icmp { .. } | Self::Other { .. } => None,
        }
    }
}
