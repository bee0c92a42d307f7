//! Conntrack entries of both families in one shape.
use std::net::{IpAddr, SocketAddr};

use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtState, half, zone},
    maps::MapId,
    net::{AddrV4, AddrV6, Be16},
};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// An address family, as the maps of flows and services know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn established(self) -> MapId {
        match self {
            Self::V4 => MapId::CT_EST_V4,
            Self::V6 => MapId::CT_EST_V6,
        }
    }

    pub(super) const fn new_flows(self) -> MapId {
        match self {
            Self::V4 => MapId::CT_NEW_V4,
            Self::V6 => MapId::CT_NEW_V6,
        }
    }
}

/// A conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) proto: u8,
    pub(super) state: CtState,
    low: SocketAddr,
    high: SocketAddr,
    /// What the half writes: source and destination. `None` when the flow is not translated.
    nat: Option<(SocketAddr, SocketAddr)>,
}

impl Flow {
    /// Reads an entry; `None` when its sizes are not those of the family.
    pub(super) fn parse(family: Family, key: &[u8], value: &[u8]) -> Option<Self> {
        match family {
            Family::V4 => {
                let key = CtKeyV4::read_from_bytes(key).ok()?;
                let entry = CtEntryV4::read_from_bytes(value).ok()?;
                let nat = (v4(entry.nat_source, entry.nat_source_port), entry.nat_destination);
                Some(Self {
                    proto: key.proto,
                    state: entry.state,
                    low: v4(key.low_addr, key.low_port),
                    high: v4(key.high_addr, key.high_port),
                    nat: (entry.state.half != half::PLAIN)
                        .then(|| (nat.0, v4(nat.1, entry.nat_destination_port))),
                })
            }
            Family::V6 => {
                let key = CtKeyV6::read_from_bytes(key).ok()?;
                let entry = CtEntryV6::read_from_bytes(value).ok()?;
                let nat = (v6(entry.nat_source, entry.nat_source_port), entry.nat_destination);
                Some(Self {
                    proto: key.proto,
                    state: entry.state,
                    low: v6(key.low_addr, key.low_port),
                    high: v6(key.high_addr, key.high_port),
                    nat: (entry.state.half != half::PLAIN)
                        .then(|| (nat.0, v6(nat.1, entry.nat_destination_port))),
                })
            }
        }
    }

    /// Key of the other half of a translated flow.
    pub(super) fn partner_key(&self, family: Family) -> Option<Vec<u8>> {
        let (source, destination) = self.nat?;
        let zone = if self.state.half == half::BACKEND { self.state.client_zone } else { zone::POD };
        key(family, source, destination, self.proto, zone)
    }

    /// For the half that the client's packets match: the frontend that it asked for, and its backend. `None` where it
    /// asked the backend directly.
    pub(super) fn service(&self) -> Option<(SocketAddr, SocketAddr)> {
        let is_service = self.state.half == half::CLIENT && self.state.client_zone == zone::POD;
        let (_, backend) = self.nat.filter(|_| is_service)?;
        let frontend = if self.state.origin_high != 0 { self.low } else { self.high };
        Some((frontend, backend))
    }

    pub(super) const fn is_translated(&self) -> bool {
        self.nat.is_some()
    }

    /// The client, and the server that it speaks to behind a translation.
    pub(super) fn ends(&self) -> [IpAddr; 2] {
        let (opener, other) =
            if self.state.origin_high != 0 { (self.high, self.low) } else { (self.low, self.high) };
        match self.nat {
            Some((_, client)) if self.state.half == half::BACKEND => [client.ip(), other.ip()],
            Some((_, backend)) => [opener.ip(), backend.ip()],
            None => [opener.ip(), other.ip()],
        }
    }

    /// Whether one end of the flow has an address, before or after translation.
    pub(super) fn touches(&self, is_wanted: impl Fn(&IpAddr) -> bool) -> bool {
        let translated = self.nat.map(|(source, destination)| [source, destination]).into_iter().flatten();
        [self.low, self.high].into_iter().chain(translated).any(|end| is_wanted(&end.ip()))
    }
}

/// The key that both directions of a flow share: its ends in ascending order of their raw words, as the programs
/// compare them. `None` when an end is of the other family.
fn key(family: Family, one: SocketAddr, other: SocketAddr, proto: u8, zone: u8) -> Option<Vec<u8>> {
    let reserved = [0; 2];
    match family {
        Family::V4 => {
            let ends = [raw_v4(one)?, raw_v4(other)?];
            let ((low_addr, low_port), (high_addr, high_port)) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            Some(
                CtKeyV4 { low_addr, high_addr, low_port, high_port, proto, zone, reserved }
                    .as_bytes()
                    .to_vec(),
            )
        }
        Family::V6 => {
            let ends = [raw_v6(one)?, raw_v6(other)?];
            let ((low_addr, low_port), (high_addr, high_port)) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            Some(
                CtKeyV6 { low_addr, high_addr, low_port, high_port, proto, zone, reserved }
                    .as_bytes()
                    .to_vec(),
            )
        }
    }
}

fn v4(addr: AddrV4, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.octets().into(), port.get())
}

fn v6(addr: AddrV6, port: Be16) -> SocketAddr {
    SocketAddr::new(addr.octets().into(), port.get())
}

pub(super) fn raw_v4(end: SocketAddr) -> Option<(AddrV4, Be16)> {
    match end {
        SocketAddr::V4(end) => Some((AddrV4::new(end.ip().octets()), Be16::new(end.port()))),
        SocketAddr::V6(_) => None,
    }
}

pub(super) fn raw_v6(end: SocketAddr) -> Option<(AddrV6, Be16)> {
    match end {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(end) => Some((AddrV6::new(end.ip().octets()), Be16::new(end.port()))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use dataplane_common::net::proto;
    use zerocopy::FromZeros as _;

    use super::*;

    /// The entry under which a client's packets to a frontend are found.
    pub(crate) fn client_half(
        client: SocketAddr,
        frontend: SocketAddr,
        backend: SocketAddr,
        change: impl Fn(&mut CtState),
    ) -> (Vec<u8>, Vec<u8>) {
        entry(half::CLIENT, (client, frontend), (client, backend), change)
    }

    /// The entry under which the backend's packets are found.
    pub(crate) fn backend_half(
        client: SocketAddr,
        frontend: SocketAddr,
        backend: SocketAddr,
        change: impl Fn(&mut CtState),
    ) -> (Vec<u8>, Vec<u8>) {
        entry(half::BACKEND, (client, backend), (frontend, client), change)
    }

    fn entry(
        half: u8,
        ends: (SocketAddr, SocketAddr),
        nat: (SocketAddr, SocketAddr),
        change: impl Fn(&mut CtState),
    ) -> (Vec<u8>, Vec<u8>) {
        let mut entry = CtEntryV4::new_zeroed();
        (entry.nat_source, entry.nat_source_port) = raw_v4(nat.0).unwrap();
        (entry.nat_destination, entry.nat_destination_port) = raw_v4(nat.1).unwrap();
        entry.state.half = half;
        entry.state.origin_high = u8::from(raw_v4(ends.0).unwrap() > raw_v4(ends.1).unwrap());
        change(&mut entry.state);
        let zone = if half == half::CLIENT { entry.state.client_zone } else { zone::POD };
        (key(Family::V4, ends.0, ends.1, proto::UDP, zone).unwrap(), entry.as_bytes().to_vec())
    }

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_half_knows_the_key_of_the_other() {
        let (client, frontend, backend) = (end("10.0.0.2:4000"), end("10.96.0.10:53"), end("10.0.1.9:5353"));
        let (client_key, client_value) = client_half(client, frontend, backend, |_| ());
        let (backend_key, backend_value) = backend_half(client, frontend, backend, |_| ());
        let client_flow = Flow::parse(Family::V4, &client_key, &client_value).unwrap();
        let backend_flow = Flow::parse(Family::V4, &backend_key, &backend_value).unwrap();
        assert_eq!(client_flow.partner_key(Family::V4), Some(backend_key));
        assert_eq!(backend_flow.partner_key(Family::V4), Some(client_key));
    }

    #[test]
    fn a_flow_beside_a_translated_one_has_a_half_in_a_zone_of_its_own_and_no_service() {
        let (client, other_port, backend) =
            (end("10.0.0.2:4000"), end("10.0.0.2:40001"), end("10.0.1.9:5353"));
        let is_direct = |state: &mut CtState| state.client_zone = zone::DIRECT;
        let (client_key, client_value) =
            entry(half::CLIENT, (client, backend), (other_port, backend), is_direct);
        let (backend_key, backend_value) =
            entry(half::BACKEND, (other_port, backend), (backend, client), is_direct);
        let client_flow = Flow::parse(Family::V4, &client_key, &client_value).unwrap();
        let backend_flow = Flow::parse(Family::V4, &backend_key, &backend_value).unwrap();
        assert_eq!(client_flow.partner_key(Family::V4), Some(backend_key));
        assert_eq!(backend_flow.partner_key(Family::V4), Some(client_key));
        assert_eq!(client_flow.service(), None);
        assert_eq!(backend_flow.ends(), client_flow.ends());
    }

    #[test]
    fn a_flow_counts_for_its_client_and_else_for_its_server() {
        let (client, frontend, backend) = (end("10.0.0.2:4000"), end("10.96.0.10:53"), end("10.0.1.9:5353"));
        for (key, value) in [
            client_half(client, frontend, backend, |_| ()),
            backend_half(client, frontend, backend, |_| ()),
            entry(half::PLAIN, (client, backend), (end("0.0.0.0:0"), end("0.0.0.0:0")), |_| ()),
        ] {
            let flow = Flow::parse(Family::V4, &key, &value).unwrap();
            assert_eq!(flow.ends(), [client.ip(), backend.ip()]);
        }
    }

    #[test]
    fn the_frontend_is_the_end_that_is_not_the_client_in_either_order() {
        let backend = end("10.0.1.9:5353");
        for (client, frontend) in [("10.0.0.2:4000", "10.96.0.10:53"), ("10.96.0.10:4000", "10.0.0.2:53")] {
            let (key, value) = client_half(end(client), end(frontend), backend, |_| ());
            let flow = Flow::parse(Family::V4, &key, &value).unwrap();
            assert_eq!(flow.service(), Some((end(frontend), backend)));
        }
        let (key, value) = backend_half(end("10.0.0.2:4000"), end("10.96.0.10:53"), backend, |_| ());
        assert_eq!(Flow::parse(Family::V4, &key, &value).unwrap().service(), None);
    }

    #[test]
    fn a_key_is_the_same_for_both_directions_in_both_families() {
        for (family, one, other) in
            [(Family::V4, "10.0.0.2:1", "10.0.0.2:2"), (Family::V6, "[fd00::1]:256", "[fd00::1]:1")]
        {
            let there = key(family, end(one), end(other), proto::TCP, zone::POD);
            assert!(there.is_some());
            assert_eq!(there, key(family, end(other), end(one), proto::TCP, zone::POD));
        }
        assert_eq!(key(Family::V4, end("[fd00::1]:1"), end("10.0.0.1:2"), proto::TCP, zone::POD), None);
    }

    #[test]
    fn a_flow_touches_its_ends_before_and_after_translation() {
        let (client, frontend, backend) = (end("10.0.0.2:4000"), end("10.96.0.10:53"), end("10.0.1.9:5353"));
        let (key, value) = client_half(client, frontend, backend, |_| ());
        let flow = Flow::parse(Family::V4, &key, &value).unwrap();
        for touched in [client, frontend, backend] {
            assert!(flow.touches(|addr| *addr == touched.ip()));
        }
        assert!(!flow.touches(|addr| *addr == end("10.0.0.3:1").ip()));
    }
}
