//! Tags, `EtherType`s, ARP and neighbour discovery; lengths and checksums.
use std::net::IpAddr;

use dataplane_common::config::{GATEWAY_V4, GATEWAY_V6};
use harness::packet::{Network, Packet, Transport};

use super::frames::{Attack, Ends, SECRET, udp};

const ETHERNET: usize = 12;

pub(super) fn every(ends: &Ends) -> Vec<Attack> {
    vec![tags(ends), ethertypes(ends), if ends.is_v6() { discovery(ends) } else { arp(ends) }]
}

fn tags(ends: &Ends) -> Attack {
    let frame = ends.udp().bytes();
    let mut frames = Vec::new();
    for kind in [0x8100_u16, 0x88a8, 0x9100, 0x9200] {
        for tag in [0_u16, 1, 100, 0x1fff, 0x2000, 0xe000, 0xffff] {
            let one = [kind.to_be_bytes(), tag.to_be_bytes()].concat();
            for times in 1..=3 {
                let mut tagged = frame.clone();
                tagged.splice(ETHERNET..ETHERNET, one.repeat(times));
                frames.push(tagged);
            }
        }
    }
    Attack::new("VLAN tags", frames)
}

/// Every `EtherType` but the three that there are, with the packet behind it.
fn ethertypes(ends: &Ends) -> Attack {
    let frame = ends.udp().bytes();
    let known = [0x0800, 0x0806, 0x86dd];
    let mut frames: Vec<Vec<u8>> = (0..=u16::MAX)
        .step_by(37)
        .chain([
            0x8847, 0x8848, 0x8863, 0x8864, 0x88e5, 0x8035, 0x6003, 0x22f3, 0x88cc, 0x888e, 0x894f, 0x6558,
        ])
        .filter(|kind| !known.contains(kind))
        .map(|kind| {
            let mut frame = frame.clone();
            frame[ETHERNET..ETHERNET + 2].copy_from_slice(&kind.to_be_bytes());
            frame
        })
        .collect();
    // The other family's, and IP behind LLC and SNAP.
    for kind in if ends.is_v6() { [0x0800_u16, 0x0806] } else { [0x86dd, 0x0806] } {
        let mut frame = frame.clone();
        frame[ETHERNET..ETHERNET + 2].copy_from_slice(&kind.to_be_bytes());
        frames.push(frame);
    }
    let mut snap = frame.clone();
    let length = u16::try_from(frame.len() - ETHERNET - 2 + 8).expect("a short frame");
    snap.splice(ETHERNET..ETHERNET, [&length.to_be_bytes()[..], &[0xaa, 0xaa, 3, 0, 0, 0]].concat());
    frames.push(snap);
    Attack::new("EtherTypes", frames)
}

fn arp(ends: &Ends) -> Attack {
    let octets = |address: &IpAddr| if let IpAddr::V4(address) = address { address.octets() } else { [0; 4] };
    let gateway = IpAddr::from(GATEWAY_V4);
    let addresses: Vec<IpAddr> = ends.others.iter().copied().chain([ends.from, gateway]).collect();
    let mut frames = Vec::new();
    for operation in 0..=10_u16 {
        for sender in &addresses {
            for target in &addresses {
                for (mac, to) in [
                    (ends.macs.pod, ends.macs.host),
                    (ends.macs.pod, [255; 6]),
                    (ends.victim_macs.pod, [255; 6]),
                    (ends.macs.pod, ends.victim_macs.pod),
                ] {
                    let body = [
                        &[0, 1, 8, 0, 6, 4][..],
                        &operation.to_be_bytes(),
                        &mac,
                        &octets(sender),
                        &[0; 6],
                        &octets(target),
                        SECRET,
                    ];
                    let network = Network::Other { ethertype: 0x0806, bytes: body.concat() };
                    let packet =
                        Packet { source_mac: ends.macs.pod, destination_mac: to, vlans: Vec::new(), network };
                    frames.push(packet.bytes());
                }
            }
        }
    }
    Attack::new("ARP", frames).may_be_answered()
}

fn discovery(ends: &Ends) -> Attack {
    let octets =
        |address: &IpAddr| if let IpAddr::V6(address) = address { address.octets() } else { [0; 16] };
    let gateway = IpAddr::from(GATEWAY_V6);
    let group: IpAddr = "ff02::1".parse().expect("an address");
    let unspecified: IpAddr = "::".parse().expect("an address");
    let mut frames = Vec::new();
    for kind in (130..=137).chain(141..=154) {
        for from in [ends.from, ends.to, gateway, unspecified] {
            for to in [ends.to, gateway, group] {
                for target in ends.others.iter().chain([&gateway, &ends.from]) {
                    for (option, mac) in [(1, ends.macs.pod), (2, ends.victim_macs.pod)] {
                        let mut data = octets(target).to_vec();
                        data.extend([option, 1]);
                        data.extend(mac);
                        data.extend(SECRET);
                        data.extend([0; 5]);
                        let icmp = Transport::Icmp { kind, code: 0, rest: [0xe0, 0, 0, 0], data };
                        let mut packet = ends.between(from, to, icmp);
                        if let Network::V6(ip) = &mut packet.network {
                            ip.hop_limit = 255;
                        }
                        frames.push(packet.bytes());
                    }
                }
            }
        }
    }
    Attack::new("neighbour discovery", frames).may_be_answered().may_pass()
}

/// Frames that end too early, and lengths, header lengths and checksums that say something else.
pub(super) fn lengths(ends: &Ends) -> Vec<Attack> {
    let segment = Transport::tcp(4000, super::PORT, 2);
    let whole = [ends.udp(), ends.packet(segment)].map(|packet| packet.bytes());
    let ip = ETHERNET + 2;
    let header = if ends.is_v6() { 40 } else { 20 };
    let truncated = whole.iter().flat_map(|frame| (ip..frame.len()).map(|len| frame[..len].to_vec()));
    let mut lies = Vec::new();
    for frame in &whole {
        // Each byte of both headers, as it is not.
        for place in ip..ip + header + 8 {
            let is_address = if ends.is_v6() {
                place >= ip + 24 && place < ip + 40
            } else {
                place >= ip + 16 && place < ip + 20
            };
            if is_address {
                continue;
            }
            for value in [0, 1, 4, 5, 6, 15, 20, 0x40, 0x46, 0x4f, 0x60, 0x7f, 0x80, 0xff] {
                let mut lie = frame.clone();
                lie[place] = value;
                lie.extend(SECRET);
                lies.push(lie);
            }
        }
    }
    let mut padded = ends.packet(udp()).bytes();
    padded.resize(1400, 0);
    padded.extend(SECRET);
    vec![
        Attack::new("truncated frames", truncated.collect()),
        Attack::new("headers that lie", lies),
        Attack::new("text behind the packet", vec![padded]),
    ]
}
