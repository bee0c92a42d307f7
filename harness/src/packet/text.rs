//! The text form of a packet:
//!
//! ```text
//! SOURCE[:PORT] > DESTINATION[:PORT] PROTOCOL [WORD...]
//! 10.0.0.5:4000 > 10.96.0.10:53 udp len 12
//! [fd00::5]:4000 > [fd00::a]:80 tcp [SA] ttl 3 vlan 7
//! 10.0.0.5 > 10.0.0.6 icmp 8/0
//! ```
//! A TCP packet without flags is a SYN. Fragments, options and extension headers are printed, not read.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{Network, Packet, Payload, Transport, UdpChecksum, flag, proto};

/// Why a text is not a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// The word that was not understood.
    pub word: String,
    pub expected: &'static str,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.word, self.expected)
    }
}

impl std::error::Error for TextError {}

const FLAGS: [(u8, char); 6] = [
    (flag::SYN, 'S'),
    (flag::FIN, 'F'),
    (flag::RST, 'R'),
    (flag::PSH, 'P'),
    (flag::URG, 'U'),
    (flag::ACK, 'A'),
];

impl FromStr for Packet {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let mut words = text.split_whitespace();
        let mut next = |expected| words.next().ok_or(TextError { word: String::new(), expected });
        let (source, source_port) = end(next("a source")?)?;
        let arrow = next("`>`")?;
        if arrow != ">" {
            return Err(TextError { word: arrow.to_owned(), expected: "`>`" });
        }
        let word = next("a destination")?;
        let (destination, destination_port) = end(word)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(TextError { word: word.to_owned(), expected: "of the family of the source" });
        }
        let transport = match next("a protocol")? {
            "tcp" => Transport::tcp(source_port, destination_port, flag::SYN),
            "udp" => Transport::udp(source_port, destination_port, Vec::new()),
            "sctp" => Transport::Sctp {
                source: source_port,
                destination: destination_port,
                tag: 0,
                data: vec![1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0],
            },
            "icmp" => {
                let echo = if source.is_ipv4() { 8 } else { 128 };
                Transport::Icmp { kind: echo, code: 0, rest: [0, 1, 0, 1], data: Vec::new() }
            }
            word => {
                return Err(TextError {
                    word: word.to_owned(),
                    expected: "a protocol: tcp, udp, sctp or icmp",
                });
            }
        };
        let mut packet = Self::new(source, destination, transport);
        while let Some(word) = words.next() {
            packet.set(word, &mut words)?;
        }
        Ok(packet)
    }
}

impl Packet {
    fn set<'a>(&mut self, word: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), TextError> {
        if let Some(letters) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
            let Some(Transport::Tcp { flags, .. }) = self.transport_mut() else {
                return Err(TextError { word: word.to_owned(), expected: "a word for this protocol" });
            };
            *flags = parse_flags(letters)?;
            return Ok(());
        }
        if let Some((left, right)) = word.split_once('/') {
            let Some(Transport::Icmp { kind, code, .. }) = self.transport_mut() else {
                return Err(TextError { word: word.to_owned(), expected: "a word for this protocol" });
            };
            (*kind, *code) = (number(left)?, number(right)?);
            return Ok(());
        }
        let value = words.next().unwrap_or_default();
        match (word, &mut self.network) {
            ("ttl", Network::V4(ip)) => ip.ttl = number(value)?,
            ("ttl", Network::V6(ip)) => ip.hop_limit = number(value)?,
            ("vlan", _) => self.vlans.push(number(value)?),
            ("len", _) => {
                let length = usize::from(number::<u16>(value)?);
                match self.transport_mut() {
                    Some(
                        Transport::Tcp { data, .. }
                        | Transport::Udp { data, .. }
                        | Transport::Sctp { data, .. }
                        | Transport::Icmp { data, .. },
                    ) => *data = (0..=u8::MAX).cycle().take(length).collect(),
                    Some(Transport::Other { bytes, .. }) => bytes.resize(length, 0),
                    None => {}
                }
            }
            _ => {
                return Err(TextError {
                    word: word.to_owned(),
                    expected: "ttl, vlan, len, [FLAGS] or TYPE/CODE",
                });
            }
        }
        Ok(())
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, TextError> {
    word.parse().map_err(|_| TextError { word: word.to_owned(), expected: "a number that fits" })
}

fn end(word: &str) -> Result<(IpAddr, u16), TextError> {
    if let Ok(address) = word.parse::<SocketAddr>() {
        return Ok((address.ip(), address.port()));
    }
    word.parse()
        .map(|address| (address, 0))
        .map_err(|_| TextError { word: word.to_owned(), expected: "an address with or without port" })
}

fn parse_flags(letters: &str) -> Result<u8, TextError> {
    letters.chars().filter(|letter| *letter != '.').try_fold(0, |flags, letter| {
        let found = FLAGS.iter().find(|(_, name)| *name == letter);
        found
            .map(|(bit, _)| flags | bit)
            .ok_or(TextError { word: letter.to_string(), expected: "a TCP flag: S, F, R, P, U or A" })
    })
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.network {
            Network::V4(ip) => {
                write_ip(f, ip.source.into(), ip.destination.into(), &ip.payload)?;
                write_unless(f, "ttl", ip.ttl, 64)?;
                write_unless(f, "options", ip.options.len(), 0)?;
            }
            Network::V6(ip) => {
                write_ip(f, ip.source.into(), ip.destination.into(), &ip.payload)?;
                write_unless(f, "ttl", ip.hop_limit, 64)?;
                for extension in &ip.extensions {
                    write!(f, " {:?}", extension.kind)?;
                }
            }
            Network::Other { ethertype, bytes } => {
                write!(f, "ethertype {ethertype:#06x} len {}", bytes.len())?;
            }
        }
        self.vlans.iter().try_for_each(|tag| write!(f, " vlan {tag}"))
    }
}

fn write_unless<T: fmt::Display + PartialEq + Copy>(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    value: T,
    usual: T,
) -> fmt::Result {
    if value == usual { Ok(()) } else { write!(f, " {word} {value}") }
}

fn write_ip(
    f: &mut fmt::Formatter<'_>,
    source: IpAddr,
    destination: IpAddr,
    payload: &Payload,
) -> fmt::Result {
    let transport = match payload {
        Payload::Whole(transport) => transport,
        Payload::Fragment { id, offset, more, proto, bytes } => {
            let start = usize::from(*offset) * 8;
            let plus = if *more { "+" } else { "" };
            let name = protocol_name(*proto);
            return write!(
                f,
                "{source} > {destination} {name} fragment {id:#x} {start}..{}{plus}",
                start + bytes.len()
            );
        }
    };
    match transport.ports() {
        Some((from, to)) => {
            write!(f, "{} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))?;
        }
        None => write!(f, "{source} > {destination}")?,
    }
    match transport {
        Transport::Tcp { flags, data, .. } => {
            let letters: String =
                FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect();
            write!(f, " tcp [{letters}]")?;
            write_unless(f, "len", data.len(), 0)
        }
        Transport::Udp { checksum, data, .. } => {
            f.write_str(if *checksum == UdpChecksum::Absent { " udp without checksum" } else { " udp" })?;
            write_unless(f, "len", data.len(), 0)
        }
        Transport::Sctp { .. } => f.write_str(" sctp"),
        Transport::Icmp { kind, code, data, .. } => {
            write!(f, " icmp {kind}/{code}")?;
            write_unless(f, "len", data.len(), 0)
        }
        Transport::Other { proto, bytes } => write!(f, " {} len {}", protocol_name(*proto), bytes.len()),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::SCTP => "sctp".to_owned(),
        proto::ICMP | proto::ICMPV6 => "icmp".to_owned(),
        proto::NO_NEXT_HEADER => "no-next-header".to_owned(),
        number => format!("protocol-{number}"),
    }
}
