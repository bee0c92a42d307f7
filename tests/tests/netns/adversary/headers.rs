//! Protocols, IPv4 options and IPv6 extension headers.
use std::net::IpAddr;

use harness::packet::{Extension, ExtensionKind, Network, Packet, Transport, flag};

use super::{
    PORT,
    frames::{Attack, Ends, SECRET, udp},
};

pub(super) fn every(ends: &Ends) -> Vec<Attack> {
    let mut attacks = vec![protocols(ends), flags(ends)];
    if ends.is_v6() {
        attacks.extend(extension_headers(ends));
    } else {
        attacks.extend(options(ends));
    }
    attacks
}

/// Every number of a protocol or next header, with a body that could be an extension header before UDP.
fn protocols(ends: &Ends) -> Attack {
    let frames = (0..=u8::MAX).flat_map(|proto| {
        let mut chained = vec![17, 0, 0, 0, 0, 0, 0, 0];
        chained.extend(udp().bytes(ends.from, ends.to));
        let bodies = [SECRET.to_vec(), chained, udp().bytes(ends.from, ends.to)];
        bodies.map(|bytes| ends.packet(Transport::Other { proto, bytes }).bytes())
    });
    // One of them is a fragment.
    Attack::new("every protocol", frames.collect()).may_be_held()
}

fn flags(ends: &Ends) -> Attack {
    let frames = (0..=u8::MAX).flat_map(|flags| {
        [(4000, PORT), (PORT, 4000), (0, 0), (PORT, PORT)].map(|(source, destination)| {
            let options = if flags & flag::URG == 0 { Vec::new() } else { vec![1; 40] };
            let segment = Transport::Tcp {
                source,
                destination,
                flags,
                sequence: 1,
                acknowledgement: 1,
                options,
                data: SECRET.to_vec(),
            };
            ends.packet(segment).bytes()
        })
    });
    Attack::new("every combination of TCP flags", frames.collect())
}

fn with_options(mut packet: Packet, options: Vec<u8>) -> Packet {
    if let Network::V4(ip) = &mut packet.network {
        ip.options = options;
    }
    packet
}

/// Source routes by way of an open pod, which the policy of the last hop does not see.
fn source_routes(ends: &Ends) -> Attack {
    let hop = |kind: u8, pointer: u8| {
        let IpAddr::V4(to) = ends.to else { return Vec::new() };
        [&[1, kind, 7, pointer], &to.octets()[..]].concat()
    };
    let mut frames = Vec::new();
    for kind in [131, 137] {
        for pointer in [0, 4, 8, 255] {
            for first in &ends.others {
                frames.push(with_options(ends.between(ends.from, *first, udp()), hop(kind, pointer)).bytes());
            }
        }
    }
    Attack::new("source routes", frames)
}

fn options(ends: &Ends) -> [Attack; 2] {
    let mut frames = Vec::new();
    for kind in 0..=u8::MAX {
        for len in [0, 1, 2, 3, 4, 8, 39, 40, 255] {
            for body in [4, 40] {
                let mut option = vec![0; body];
                option[..2].copy_from_slice(&[kind, len]);
                frames.push(with_options(ends.udp(), option).bytes());
            }
        }
    }
    [Attack::new("every IPv4 option", frames), source_routes(ends)]
}

fn with_extensions(mut packet: Packet, extensions: Vec<Extension>) -> Packet {
    if let Network::V6(ip) = &mut packet.network {
        ip.extensions = extensions;
    }
    packet
}

fn extension_headers(ends: &Ends) -> [Attack; 3] {
    use ExtensionKind::{Authentication, DestinationOptions, HopByHop, Mobility, Routing};
    const KINDS: [ExtensionKind; 5] = [HopByHop, Routing, DestinationOptions, Authentication, Mobility];
    let mut chains = Vec::new();
    for first in KINDS {
        for second in KINDS {
            for length in 1..=8 {
                let kinds = (0..length).map(|place| if place % 2 == 0 { first } else { second });
                let headers = kinds.map(|kind| Extension { kind, body: vec![1, 4, 0, 0, 0, 0] });
                chains.push(with_extensions(ends.udp(), headers.collect()).bytes());
            }
        }
    }
    let mut options = Vec::new();
    for kind in [HopByHop, DestinationOptions] {
        for option in 0..=u8::MAX {
            for len in [0, 4, 255] {
                let body = vec![option, len, 0, 0, 0, 0];
                options.push(with_extensions(ends.udp(), vec![Extension { kind, body }]).bytes());
            }
        }
    }
    // By way of another address to the victim.
    let mut routes = Vec::new();
    let IpAddr::V6(last) = ends.to else {
        return [chains, options, routes].map(|frames| Attack::new("", frames));
    };
    for kind in 0..=u8::MAX {
        for left in [1, 2, 255] {
            for first in &ends.others {
                let body = [&[kind, left, 0, 0, 0, 0], &last.octets()[..]].concat();
                let header = Extension { kind: Routing, body };
                routes.push(with_extensions(ends.between(ends.from, *first, udp()), vec![header]).bytes());
            }
        }
    }
    [
        Attack::new("chains of extension headers", chains),
        Attack::new("every option of IPv6", options),
        Attack::new("every routing header", routes),
    ]
}
