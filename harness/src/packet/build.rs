//! A packet to bytes, with correct lengths and checksums.
use std::net::IpAddr;

use super::{
    Extension, ExtensionKind, Ipv4, Ipv6, Network, Packet, Payload, Transport, UdpChecksum,
    checksum::{crc32c, internet_checksum, pseudo_header},
    ethertype, proto,
};

impl Packet {
    /// The frame, without FCS.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for (index, tag) in self.vlans.iter().enumerate() {
            let outer_of_two = index == 0 && self.vlans.len() > 1;
            let tag_type = if outer_of_two { ethertype::SERVICE_VLAN } else { ethertype::VLAN };
            frame.extend(tag_type.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        let (ethertype, body) = match &self.network {
            Network::V4(ip) => (ethertype::IPV4, ip.bytes()),
            Network::V6(ip) => (ethertype::IPV6, ip.bytes()),
            Network::Other { ethertype, bytes } => (*ethertype, bytes.clone()),
        };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// The IP packet alone.
    #[must_use]
    pub fn ip_bytes(&self) -> Option<Vec<u8>> {
        match &self.network {
            Network::V4(ip) => Some(ip.bytes()),
            Network::V6(ip) => Some(ip.bytes()),
            Network::Other { .. } => None,
        }
    }
}

impl Ipv4 {
    fn bytes(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let (proto, payload, id, fragment) = match &self.payload {
            Payload::Whole(transport) => {
                let bytes = transport.bytes(self.source.into(), self.destination.into());
                (transport.proto(IpAddr::from(self.source)), bytes, self.id, 0)
            }
            Payload::Fragment { id, offset, more, proto, bytes } => {
                let id = u16::try_from(*id).expect("an IPv4 identification has 16 bits");
                (*proto, bytes.clone(), id, (offset & 0x1fff) | u16::from(*more) << 13)
            }
        };
        let flags = fragment | u16::from(self.dont_fragment) << 14;
        let header_len = 20 + options.len();
        let version_and_length = 0x40 | u8::try_from(header_len / 4).expect("at most 40 bytes of options");
        let mut header = vec![version_and_length, self.tos];
        header.extend(length16(header_len + payload.len()));
        header.extend(id.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([self.ttl, proto, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(options);
        let checksum = internet_checksum(&[&header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(payload);
        header
    }
}

impl Ipv6 {
    fn bytes(&self) -> Vec<u8> {
        let (last, payload) = match &self.payload {
            Payload::Whole(transport) => {
                let bytes = transport.bytes(self.source.into(), self.destination.into());
                (transport.proto(IpAddr::from(self.source)), bytes)
            }
            Payload::Fragment { id, offset, more, proto, bytes } => {
                let mut header = vec![*proto, 0];
                header.extend((offset << 3 | u16::from(*more)).to_be_bytes());
                header.extend(id.to_be_bytes());
                header.extend(bytes);
                (proto::FRAGMENT, header)
            }
        };
        let mut next = last;
        let mut chain = Vec::new();
        for extension in self.extensions.iter().rev() {
            chain.splice(0..0, extension.bytes(next));
            next = extension.kind.number();
        }
        chain.extend(payload);
        let word = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0xf_ffff);
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend(length16(chain.len()));
        packet.extend([next, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(chain);
        packet
    }
}

impl Extension {
    fn bytes(&self, next: u8) -> Vec<u8> {
        let mut header = vec![next, 0];
        header.extend(&self.body);
        header.resize(header.len().next_multiple_of(8), 0);
        let words = match self.kind {
            ExtensionKind::Authentication => header.len() / 4 - 2,
            ExtensionKind::HopByHop
            | ExtensionKind::Routing
            | ExtensionKind::DestinationOptions
            | ExtensionKind::Mobility => header.len() / 8 - 1,
        };
        header[1] = u8::try_from(words).expect("an extension header is at most 2 KiB");
        header
    }
}

impl ExtensionKind {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::HopByHop => proto::HOP_BY_HOP,
            Self::Routing => proto::ROUTING,
            Self::DestinationOptions => proto::DESTINATION_OPTIONS,
            Self::Authentication => proto::AUTHENTICATION,
            Self::Mobility => proto::MOBILITY,
        }
    }
}

impl Transport {
    /// The protocol number, in a packet from this address.
    #[must_use]
    pub const fn proto(&self, source: IpAddr) -> u8 {
        match (self, source) {
            (Self::Tcp { .. }, _) => proto::TCP,
            (Self::Udp { .. }, _) => proto::UDP,
            (Self::Sctp { .. }, _) => proto::SCTP,
            (Self::Icmp { .. }, IpAddr::V4(_)) => proto::ICMP,
            (Self::Icmp { .. }, IpAddr::V6(_)) => proto::ICMPV6,
            (Self::Other { proto, .. }, _) => *proto,
        }
    }

    /// The transport packet as it stands between these addresses.
    #[must_use]
    pub fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let checksum_of = |bytes: &[u8]| {
            let pseudo = pseudo_header(source, destination, self.proto(source), bytes.len());
            internet_checksum(&[&pseudo, bytes])
        };
        match self {
            Self::Tcp { source: from, destination: to, flags, sequence, acknowledgement, options, data } => {
                let mut bytes = ports(*from, *to);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                let words = 5 + options.len().div_ceil(4);
                bytes.extend([u8::try_from(words).expect("at most 40 bytes of options") << 4, *flags]);
                // A reset offers no window, as the kernel sends it.
                let window: u16 = if flags & super::flag::RST == 0 { u16::MAX } else { 0 };
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.resize(words * 4, 0);
                bytes.extend(data);
                let checksum = checksum_of(&bytes);
                bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }
            Self::Udp { source: from, destination: to, checksum, data } => {
                let mut bytes = ports(*from, *to);
                bytes.extend(length16(8 + data.len()));
                bytes.extend([0, 0]);
                bytes.extend(data);
                if *checksum == UdpChecksum::Computed {
                    // A sum of zero is sent as all ones, because zero means that there is none (RFC 768).
                    let checksum = Some(checksum_of(&bytes)).filter(|sum| *sum != 0).unwrap_or(u16::MAX);
                    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
                }
                bytes
            }
            Self::Sctp { source: from, destination: to, tag, data } => {
                let mut bytes = ports(*from, *to);
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(data);
                let checksum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
                bytes
            }
            Self::Icmp { kind, code, rest, data } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(data);
                let checksum =
                    if source.is_ipv4() { internet_checksum(&[&bytes]) } else { checksum_of(&bytes) };
                bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }
            Self::Other { bytes, .. } => bytes.clone(),
        }
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("an IP packet is shorter than 64 KiB").to_be_bytes()
}
