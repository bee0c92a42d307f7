//! Bytes to a packet, and a check of what the programs left behind: lengths and checksums.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Extension, ExtensionKind, Ipv4, Ipv6, Network, Packet, Payload, Transport, UdpChecksum, ethertype, proto,
};

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// The bytes end inside this header.
    Truncated(&'static str),
    /// A field of this header contradicts the protocol.
    Invalid(&'static str),
    /// Building the packet again gives other bytes from this offset on: a wrong checksum or length.
    Differs { offset: usize },
}

impl std::fmt::Display for PacketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated(header) => write!(f, "the packet ends inside its {header} header"),
            Self::Invalid(header) => write!(f, "a field of the {header} header is invalid"),
            Self::Differs { offset } => write!(f, "wrong checksum or length: differs from byte {offset} on"),
        }
    }
}

impl std::error::Error for PacketError {}

/// Takes a frame apart. Checksums are not looked at: see [`verify`].
///
/// # Errors
/// When a header is cut or invalid.
pub fn parse(frame: &[u8]) -> Result<Packet, PacketError> {
    let mut reader = Reader { rest: frame };
    let destination_mac = reader.array("Ethernet")?;
    let source_mac = reader.array("Ethernet")?;
    let mut vlans = Vec::new();
    let network = loop {
        match reader.u16("Ethernet")? {
            ethertype::VLAN | ethertype::SERVICE_VLAN => vlans.push(reader.u16("VLAN")?),
            ethertype::IPV4 => break Network::V4(ipv4(reader)?),
            ethertype::IPV6 => break Network::V6(ipv6(reader)?),
            ethertype => break Network::Other { ethertype, bytes: reader.rest.to_vec() },
        }
    };
    Ok(Packet { source_mac, destination_mac, vlans, network })
}

/// Takes a frame apart and checks that its lengths and checksums are those that the builder computes.
///
/// # Errors
/// When a header is cut or invalid, or a computed field is wrong.
pub fn verify(frame: &[u8]) -> Result<Packet, PacketError> {
    let packet = parse(frame)?;
    let built = packet.bytes();
    let differs = built.iter().zip(frame).position(|(built, found)| built != found);
    match differs.or((built.len() != frame.len()).then_some(built.len().min(frame.len()))) {
        Some(offset) => Err(PacketError::Differs { offset }),
        None => Ok(packet),
    }
}

fn ipv4(mut reader: Reader<'_>) -> Result<Ipv4, PacketError> {
    let whole = reader.rest;
    let [version_and_length, tos] = reader.array("IPv4")?;
    let header_len = usize::from(version_and_length & 0xf) * 4;
    if version_and_length >> 4 != 4 || header_len < 20 {
        return Err(PacketError::Invalid("IPv4"));
    }
    let total = usize::from(reader.u16("IPv4")?);
    let id = reader.u16("IPv4")?;
    let flags = reader.u16("IPv4")?;
    let [ttl, number, _, _] = reader.array("IPv4")?;
    let source = Ipv4Addr::from(reader.array("IPv4")?);
    let destination = Ipv4Addr::from(reader.array("IPv4")?);
    let options = reader.take(header_len - 20, "IPv4")?.to_vec();
    let payload = whole.get(header_len..total).ok_or(PacketError::Truncated("IPv4"))?;
    let (offset, more) = (flags & 0x1fff, flags & 0x2000 != 0);
    let is_fragment = offset != 0 || more;
    let payload = if is_fragment {
        Payload::Fragment { id: u32::from(id), offset, more, proto: number, bytes: payload.to_vec() }
    } else {
        Payload::Whole(transport(number, source.into(), payload)?)
    };
    let dont_fragment = flags & 0x4000 != 0;
    Ok(Ipv4 { source, destination, tos, ttl, id, dont_fragment, options, payload })
}

fn ipv6(mut reader: Reader<'_>) -> Result<Ipv6, PacketError> {
    let word = u32::from_be_bytes(reader.array("IPv6")?);
    if word >> 28 != 6 {
        return Err(PacketError::Invalid("IPv6"));
    }
    let length = usize::from(reader.u16("IPv6")?);
    let [mut next, hop_limit] = reader.array("IPv6")?;
    let source = Ipv6Addr::from(reader.array::<16>("IPv6")?);
    let destination = Ipv6Addr::from(reader.array::<16>("IPv6")?);
    let mut reader = Reader { rest: reader.take(length, "IPv6")? };
    let mut extensions = Vec::new();
    while let Some(kind) = ExtensionKind::from_number(next) {
        let [following, words] = reader.array("extension")?;
        let length = match kind {
            ExtensionKind::Authentication => usize::from(words) * 4 + 8,
            ExtensionKind::HopByHop
            | ExtensionKind::Routing
            | ExtensionKind::DestinationOptions
            | ExtensionKind::Mobility => usize::from(words) * 8 + 8,
        };
        extensions.push(Extension { kind, body: reader.take(length - 2, "extension")?.to_vec() });
        next = following;
    }
    let payload = if next == proto::FRAGMENT {
        let [number, _] = reader.array("fragment")?;
        let offset_and_more = reader.u16("fragment")?;
        let id = u32::from_be_bytes(reader.array("fragment")?);
        let (offset, more) = (offset_and_more >> 3, offset_and_more & 1 == 1);
        Payload::Fragment { id, offset, more, proto: number, bytes: reader.rest.to_vec() }
    } else {
        Payload::Whole(transport(next, source.into(), reader.rest)?)
    };
    let traffic_class = word.to_be_bytes()[0] << 4 | word.to_be_bytes()[1] >> 4;
    let flow_label = word & 0xf_ffff;
    Ok(Ipv6 { source, destination, traffic_class, flow_label, hop_limit, extensions, payload })
}

fn transport(number: u8, source: IpAddr, bytes: &[u8]) -> Result<Transport, PacketError> {
    let mut reader = Reader { rest: bytes };
    Ok(match (number, source) {
        (proto::TCP, _) => {
            let (source, destination) = (reader.u16("TCP")?, reader.u16("TCP")?);
            let sequence = u32::from_be_bytes(reader.array("TCP")?);
            let acknowledgement = u32::from_be_bytes(reader.array("TCP")?);
            let [words, flags] = reader.array("TCP")?;
            reader.take(6, "TCP")?;
            let header_len = usize::from(words >> 4) * 4;
            let options_len = header_len.checked_sub(20).ok_or(PacketError::Invalid("TCP"))?;
            let options = reader.take(options_len, "TCP")?.to_vec();
            let data = reader.rest.to_vec();
            Transport::Tcp { source, destination, flags, sequence, acknowledgement, options, data }
        }
        (proto::UDP, _) => {
            let (source, destination) = (reader.u16("UDP")?, reader.u16("UDP")?);
            let length = usize::from(reader.u16("UDP")?);
            let checksum = if reader.u16("UDP")? == 0 { UdpChecksum::Absent } else { UdpChecksum::Computed };
            if length != bytes.len() {
                return Err(PacketError::Invalid("UDP"));
            }
            Transport::Udp { source, destination, checksum, data: reader.rest.to_vec() }
        }
        (proto::SCTP, _) => {
            let (source, destination) = (reader.u16("SCTP")?, reader.u16("SCTP")?);
            let tag = u32::from_be_bytes(reader.array("SCTP")?);
            reader.take(4, "SCTP")?;
            Transport::Sctp { source, destination, tag, data: reader.rest.to_vec() }
        }
        (proto::ICMP, IpAddr::V4(_)) | (proto::ICMPV6, IpAddr::V6(_)) => {
            let [kind, code, _, _] = reader.array("ICMP")?;
            let rest = reader.array("ICMP")?;
            Transport::Icmp { kind, code, rest, data: reader.rest.to_vec() }
        }
        (proto, _) => Transport::Other { proto, bytes: bytes.to_vec() },
    })
}

impl ExtensionKind {
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            proto::HOP_BY_HOP => Some(Self::HopByHop),
            proto::ROUTING => Some(Self::Routing),
            proto::DESTINATION_OPTIONS => Some(Self::DestinationOptions),
            proto::AUTHENTICATION => Some(Self::Authentication),
            proto::MOBILITY => Some(Self::Mobility),
            _ => None,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, header: &'static str) -> Result<&'a [u8], PacketError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(PacketError::Truncated(header))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, header: &'static str) -> Result<[u8; N], PacketError> {
        let taken = self.take(N, header)?;
        taken.try_into().map_err(|_| PacketError::Truncated(header))
    }

    fn u16(&mut self, header: &'static str) -> Result<u16, PacketError> {
        Ok(u16::from_be_bytes(self.array(header)?))
    }
}
