//! The frame that is sent over and over, with another source port each time.
use std::net::SocketAddrV4;

/// Length of a frame.
pub(super) const FRAME: usize = 64;
/// Length of `struct Template` of `bench/ebpf`: the frame and six numbers.
pub(super) const TEMPLATE: usize = FRAME + 24;
/// Type of service that marks the packets; `bench/ebpf` counts by it.
const MARK: u8 = 0x04;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const L4: usize = ETHERNET + IPV4;
const UDP_CHECKSUM: usize = L4 + 6;
const TCP_CHECKSUM: usize = L4 + 16;

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram.
    Udp,
    /// The first packet of a connection.
    TcpSyn,
}

/// Packets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) transport: Transport,
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    /// Which port varies over the flows.
    pub(crate) varies: Varies,
    pub(crate) flows: u32,
}

/// Which end of the packets has many ports, from the one given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Varies {
    Source,
    Destination,
}

impl Stream {
    /// `struct Template` of `bench/ebpf`.
    pub(super) fn template(&self) -> [u8; TEMPLATE] {
        let (frame, checksum_at) = self.frame();
        let (first, port_at) = match self.varies {
            Varies::Source => (self.source.port(), L4),
            Varies::Destination => (self.destination.port(), L4 + 2),
        };
        let mut summed = frame;
        summed[port_at..port_at + 2].fill(0);
        let mut template = [0; TEMPLATE];
        template[..FRAME].copy_from_slice(&frame);
        let numbers = [
            self.sum(&summed),
            u32::try_from(checksum_at).expect("small"),
            u32::from(first),
            self.flows,
            u32::try_from(port_at).expect("small"),
            0,
        ];
        for (number, bytes) in numbers.iter().zip(template[FRAME..].chunks_exact_mut(4)) {
            bytes.copy_from_slice(&number.to_ne_bytes());
        }
        template
    }

    /// The frame without its layer 4 checksum, and where that goes.
    fn frame(&self) -> ([u8; FRAME], usize) {
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&self.destination_mac);
        frame[6..12].copy_from_slice(&self.source_mac);
        frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        let length = self.ip_length();
        let protocol = match self.transport {
            Transport::Udp => 17,
            Transport::TcpSyn => 6,
        };
        let ip = &mut frame[ETHERNET..L4];
        ip[..2].copy_from_slice(&[0x45, MARK]);
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        // Do not fragment; 64 hops.
        ip[6..10].copy_from_slice(&[0x40, 0, 64, protocol]);
        ip[12..16].copy_from_slice(&self.source.ip().octets());
        ip[16..20].copy_from_slice(&self.destination.ip().octets());
        let checksum = fold(words(ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let l4 = &mut frame[L4..];
        l4[..2].copy_from_slice(&self.source.port().to_be_bytes());
        l4[2..4].copy_from_slice(&self.destination.port().to_be_bytes());
        let checksum_at = match self.transport {
            Transport::Udp => {
                l4[4..6].copy_from_slice(&(length - 20).to_be_bytes());
                UDP_CHECKSUM
            }
            Transport::TcpSyn => {
                // Header of five words, SYN, a window.
                l4[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
                TCP_CHECKSUM
            }
        };
        (frame, checksum_at)
    }

    const fn ip_length(&self) -> u16 {
        match self.transport {
            Transport::Udp => 50,
            // Ethernet pads the rest.
            Transport::TcpSyn => 40,
        }
    }

    /// The sum over pseudo header, layer 4 header and payload.
    fn sum(&self, frame: &[u8; FRAME]) -> u32 {
        let length = self.ip_length() - 20;
        let end = L4 + usize::from(length);
        words(&frame[26..34]) + u32::from(frame[23]) + u32::from(length) + words(&frame[L4..end])
    }
}

/// The sum of 16-bit words.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

/// The Internet checksum of a sum (RFC 1071).
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn stream(transport: Transport) -> Stream {
        Stream {
            transport,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: SocketAddrV4::new(Ipv4Addr::new(10, 244, 9, 2), 1024),
            destination: SocketAddrV4::new(Ipv4Addr::new(10, 100, 0, 5), 80),
            varies: Varies::Source,
            flows: 60_000,
        }
    }

    /// What the eBPF program makes of a template.
    fn written(template: &[u8], number: u32) -> Vec<u8> {
        let number_at = |index: usize| {
            let at = FRAME + index * 4;
            u32::from_ne_bytes(template[at..at + 4].try_into().expect("four bytes"))
        };
        let (sum, checksum_at, first, flows, port_at) =
            (number_at(0), number_at(1) as usize, number_at(2), number_at(3), number_at(4) as usize);
        let port = u16::try_from(first + number % flows).expect("a port");
        let mut frame = template[..FRAME].to_vec();
        frame[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        frame[checksum_at..checksum_at + 2].copy_from_slice(&fold(sum + u32::from(port)).to_be_bytes());
        frame
    }

    #[test]
    fn every_packet_has_right_checksums() {
        for transport in [Transport::Udp, Transport::TcpSyn] {
            let stream = stream(transport);
            let template = stream.template();
            for number in [0, 1, 59_999] {
                let frame = written(&template, number);
                assert_eq!(fold(words(&frame[ETHERNET..L4])), 0, "{transport:?} {number}: IPv4");
                let end = ETHERNET + usize::from(stream.ip_length());
                let pseudo =
                    words(&frame[26..34]) + u32::from(frame[23]) + u32::from(stream.ip_length() - 20);
                assert_eq!(fold(pseudo + words(&frame[L4..end])), 0, "{transport:?} {number}: layer 4");
            }
        }
    }

    #[test]
    fn the_varying_end_may_be_the_destination() {
        let stream = Stream { varies: Varies::Destination, ..stream(Transport::Udp) };
        let frame = written(&stream.template(), 7);
        assert_eq!(frame[L4 + 2..L4 + 4], 87_u16.to_be_bytes());
        assert_eq!(frame[L4..L4 + 2], 1024_u16.to_be_bytes());
    }
}
