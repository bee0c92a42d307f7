//! ICMP, addresses and fragments.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::config::{GATEWAY_V4, GATEWAY_V6};
use harness::{
    packet::{Network, Packet, Payload, Transport, flag},
    topology::PodMacs,
};

use super::PORT;

pub(super) const SECRET: &[u8] = b"what no policy lets through";

/// Frames of one kind.
pub(super) struct Attack {
    pub(super) name: String,
    pub(super) frames: Vec<Vec<u8>>,
    /// Some of it goes somewhere else, where it may go.
    pub(super) may_pass: bool,
    /// Some of it asks the link, as a pod may.
    pub(super) may_be_answered: bool,
    /// Some of it waits for a first fragment.
    pub(super) may_be_held: bool,
}

impl Attack {
    pub(super) fn new(name: impl Into<String>, frames: Vec<Vec<u8>>) -> Self {
        Self { name: name.into(), frames, may_pass: false, may_be_answered: false, may_be_held: false }
    }

    pub(super) fn may_pass(self) -> Self {
        Self { may_pass: true, ..self }
    }

    pub(super) fn may_be_held(self) -> Self {
        Self { may_be_held: true, ..self }
    }

    pub(super) fn may_be_answered(self) -> Self {
        Self { may_be_answered: true, ..self }
    }
}

/// Who attacks whom.
pub(super) struct Ends {
    pub(super) macs: PodMacs,
    pub(super) victim_macs: PodMacs,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) open: IpAddr,
    /// Pods, nodes and the service.
    pub(super) others: Vec<IpAddr>,
}

impl Ends {
    pub(super) fn packet(&self, transport: Transport) -> Packet {
        self.between(self.from, self.to, transport)
    }

    pub(super) fn between(&self, from: IpAddr, to: IpAddr, transport: Transport) -> Packet {
        Packet::new(from, to, transport).between(self.macs.pod, self.macs.host)
    }

    pub(super) fn udp(&self) -> Packet {
        self.packet(udp())
    }

    pub(super) fn is_v6(&self) -> bool {
        self.to.is_ipv6()
    }
}

pub(super) fn udp() -> Transport {
    Transport::udp(4000, PORT, SECRET.to_vec())
}

fn hops(mut packet: Packet, limit: u8) -> Packet {
    match &mut packet.network {
        Network::V4(ip) => ip.ttl = limit,
        Network::V6(ip) => ip.hop_limit = limit,
        Network::Other { .. } => {}
    }
    packet
}

/// Every type and code, and errors about flows that are, were or are not.
pub(super) fn icmp(ends: &Ends) -> Vec<Attack> {
    let message =
        |kind, code| ends.packet(Transport::Icmp { kind, code, rest: [0; 4], data: SECRET.to_vec() }).bytes();
    let mut attacks: Vec<Attack> = (0..=u8::MAX)
        .collect::<Vec<_>>()
        .chunks(32)
        .map(|kinds| {
            let all = kinds.iter().flat_map(|kind| (0..=u8::MAX).map(|code| (*kind, code)));
            let name = format!("ICMP types from {} on, every code", kinds[0]);
            Attack::new(name, all.map(|(kind, code)| message(kind, code)).collect())
        })
        .collect();
    let far_hops = (0..=u8::MAX).map(|kind| {
        let icmp = Transport::Icmp { kind, code: 0, rest: [0; 4], data: SECRET.to_vec() };
        hops(ends.packet(icmp), u8::MAX).bytes()
    });
    attacks.push(Attack::new("every ICMP type with hop limit 255", far_hops.collect()));
    attacks.push(quotes(ends));
    attacks
}

/// Errors that quote packets in both directions between the ends that there are.
fn quotes(ends: &Ends) -> Attack {
    let kinds: &[u8] = if ends.is_v6() { &[1, 2, 3, 4, 100, 127] } else { &[3, 4, 5, 11, 12] };
    let mut frames = Vec::new();
    for kind in kinds {
        for other in ends.others.iter().chain([&ends.from]) {
            for (from, to) in [(*other, ends.from), (ends.from, *other), (ends.to, *other), (*other, ends.to)]
            {
                for transport in [
                    udp(),
                    Transport::udp(4999, PORT, SECRET.to_vec()),
                    Transport::tcp(4000, PORT, flag::ACK),
                ] {
                    let quoted = Packet::new(from, to, transport);
                    let mut error = Transport::icmp_error(*kind, 0, [0, 0, 2, 0], &quoted, 64);
                    if let Transport::Icmp { data, .. } = &mut error {
                        data.extend(SECRET);
                    }
                    frames.push(ends.packet(error).bytes());
                }
            }
        }
    }
    Attack::new("ICMP errors that quote flows", frames)
}

fn strange(v6: bool) -> Vec<IpAddr> {
    if v6 {
        let texts = [
            "::",
            "::1",
            "fe80::1",
            "fe80::2",
            "ff02::1",
            "ff02::2",
            "ff05::1:3",
            "ff0e::1",
            "::ffff:10.244.1.2",
            "::10.244.1.2",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:af4:102::1",
            "fec0::1",
            "2001:db8::1",
        ];
        texts.iter().map(|text| text.parse::<Ipv6Addr>().expect("an address").into()).collect()
    } else {
        let texts = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "10.244.1.0",
            "10.244.1.255",
            "10.244.2.255",
            "203.0.113.9",
        ];
        texts.iter().map(|text| text.parse::<Ipv4Addr>().expect("an address").into()).collect()
    }
}

/// Every kind of source to the victim, and every kind of destination with the victim's link-layer addresses.
pub(super) fn addresses(ends: &Ends) -> Vec<Attack> {
    let gateway = if ends.is_v6() { GATEWAY_V6.into() } else { IpAddr::from(GATEWAY_V4) };
    let all: Vec<IpAddr> = strange(ends.is_v6())
        .into_iter()
        .chain(ends.others.iter().copied())
        .chain([ends.from, ends.to, gateway])
        .collect();
    let echo = || Transport::Icmp {
        kind: if ends.is_v6() { 128 } else { 8 },
        code: 0,
        rest: [0; 4],
        data: SECRET.to_vec(),
    };
    let transports = || {
        let mut all = vec![udp(), echo(), Transport::udp(68, 67, SECRET.to_vec())];
        for flags in [flag::SYN, flag::ACK, flag::RST, flag::FIN, flag::SYN | flag::ACK] {
            all.push(Transport::Tcp {
                source: 4000,
                destination: PORT,
                flags,
                sequence: 1,
                acknowledgement: 1,
                options: Vec::new(),
                data: SECRET.to_vec(),
            });
        }
        all
    };
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for address in all {
        for transport in transports() {
            for limit in [0, 1, 2, 64, 255] {
                from.push(hops(ends.between(address, ends.to, transport.clone()), limit).bytes());
            }
            if address == ends.open {
                continue;
            }
            let macs = [
                ends.macs.host,
                ends.victim_macs.pod,
                ends.victim_macs.host,
                [255; 6],
                [0x33, 0x33, 0, 0, 0, 1],
                [1, 0, 0x5e, 0, 0, 1],
            ];
            to.extend(macs.map(|mac| {
                ends.between(ends.from, address, transport.clone()).between(ends.macs.pod, mac).bytes()
            }));
        }
    }
    vec![Attack::new("every source", from), Attack::new("every destination", to).may_pass()]
}

/// A fragment by itself, of any shape.
fn fragment(ends: &Ends, id: u32, offset: u16, more: bool, proto: u8, bytes: Vec<u8>) -> Vec<u8> {
    let mut packet = ends.udp();
    let payload = Payload::Fragment { id, offset, more, proto, bytes };
    match &mut packet.network {
        Network::V4(ip) => ip.payload = payload,
        Network::V6(ip) => ip.payload = payload,
        Network::Other { .. } => {}
    }
    packet.bytes()
}

pub(super) fn fragments(ends: &Ends) -> Vec<Attack> {
    const PROTOCOLS: [u8; 9] = [0, 1, 6, 17, 44, 50, 58, 60, 132];
    let datagram = udp().bytes(ends.from, ends.to);
    let mut shapes = Vec::new();
    for proto in PROTOCOLS {
        for offset in [0, 1, 2, 3, 100, 8191] {
            for more in [false, true] {
                for len in [0, 1, 7, 8, 9, 16, 24, 64] {
                    let bytes = datagram.iter().copied().chain(SECRET.iter().copied()).take(len).collect();
                    shapes.push(fragment(ends, 7, offset, more, proto, bytes));
                }
                // Each of these carries the text.
                shapes.push(fragment(ends, 8, offset, more, proto, SECRET.to_vec()));
            }
        }
    }
    let mut large = datagram.clone();
    large.extend(SECRET.iter().cycle().take(1200));
    let whole = ends.packet(Transport::udp(4000, PORT, large));
    let mut orders = Vec::new();
    for (number, order) in
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate()
    {
        let id = 20 + u32::try_from(number).expect("six");
        let pieces = whole.fragments(id, 480);
        orders.extend(order.map(|piece| pieces[piece].bytes()));
        // Over and over, the first one not at all, and pieces that overlap.
        orders.extend(order.map(|piece| pieces[piece].bytes()));
        orders.extend(whole.fragments(id, 240).iter().map(Packet::bytes));
        orders.extend(whole.fragments(id + 100, 480).iter().skip(1).map(Packet::bytes));
    }
    // The first one goes where it may, and what follows it somewhere else.
    let mut elsewhere = Vec::new();
    let open = Packet { network: ends.between(ends.from, ends.open, udp()).network, ..whole.clone() };
    for id in 60..70 {
        elsewhere.push(fragment(ends, id, 0, true, 17, datagram[..8].to_vec()));
        elsewhere.extend(open.fragments(id, 8).iter().take(1).map(Packet::bytes));
        elsewhere.extend(whole.fragments(id, 480).iter().skip(1).map(Packet::bytes));
    }
    vec![
        Attack::new("fragments of every shape", shapes).may_be_held(),
        Attack::new("fragments in every order", orders).may_be_held(),
        Attack::new("fragments whose first one went elsewhere", elsewhere).may_be_held().may_pass(),
    ]
}
