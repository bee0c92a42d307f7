//! What the first release (ABI version 1) had in its maps, where that is not as it is now: both ways.
use bpf_maps::Entry;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6, CtKeyV4, CtKeyV6, CtState, zone},
    maps::{MapId, MapKind, MapSpec},
    net::{AddrV4, AddrV6, Be16, proto},
    route::{RouteValue, kind},
    service::FrontendValue,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::carry::Entries;

/// `CtState` of version 1. `closed` stood for a reset as well.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CtState1 {
    last_seen: u64,
    epoch: u32,
    service_id: u32,
    egress_rule: u32,
    ingress_rule: u32,
    half: u8,
    origin_high: u8,
    replied: u8,
    fin_original: u8,
    fin_reply: u8,
    closed: u8,
    from_host: u8,
    backend_gone: u8,
}

impl CtState1 {
    fn to_present(self, tag: u32) -> CtState {
        CtState {
            tag,
            service_id: self.service_id,
            last_seen: self.last_seen,
            epoch: self.epoch,
            denied: 0,
            mid_stream: 0,
            half: self.half,
            origin_high: self.origin_high,
            egress_rule: self.egress_rule,
            ingress_rule: self.ingress_rule,
            from_host: self.from_host,
            replied: self.replied,
            fin_original: self.fin_original,
            fin_reply: self.fin_reply,
            closed: self.closed,
            reset: 0,
            backend_gone: self.backend_gone,
            client_zone: zone::POD,
        }
    }

    const fn of_present(state: &CtState) -> Self {
        Self {
            last_seen: state.last_seen,
            epoch: state.epoch,
            service_id: state.service_id,
            egress_rule: state.egress_rule,
            ingress_rule: state.ingress_rule,
            half: state.half,
            origin_high: state.origin_high,
            replied: state.replied,
            fin_original: state.fin_original,
            fin_reply: state.fin_reply,
            closed: state.closed | state.reset,
            from_host: state.from_host,
            backend_gone: state.backend_gone,
        }
    }
}

macro_rules! flow_of_1 {
    ($name:ident, $back:ident: $former:ident, $key:ty, $entry:ident, $addr:ty) => {
        #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        struct $former {
            state: CtState1,
            nat_source: $addr,
            nat_destination: $addr,
            nat_source_port: Be16,
            nat_destination_port: Be16,
            reserved: u32,
        }

        pub(super) fn $name(key: &[u8], value: &[u8]) -> Option<Entry> {
            // What is the zone now was kept at 0, which is that of pods.
            let tag = <$key>::read_from_bytes(key).ok()?.tag();
            let former = $former::read_from_bytes(value).ok()?;
            let entry = $entry {
                state: former.state.to_present(tag),
                nat_source: former.nat_source,
                nat_destination: former.nat_destination,
                nat_source_port: former.nat_source_port,
                nat_destination_port: former.nat_destination_port,
                reserved: 0,
            };
            Some((key.to_vec(), entry.as_bytes().to_vec()))
        }

        /// It knew neither denied flows, which it judges once more, nor zones.
        fn $back(key: &[u8], value: &[u8]) -> Option<Entry> {
            let entry = $entry::read_from_bytes(value).ok()?;
            if entry.state.denied != 0 || <$key>::read_from_bytes(key).ok()?.zone != zone::POD {
                return None;
            }
            let former = $former {
                state: CtState1::of_present(&entry.state),
                nat_source: entry.nat_source,
                nat_destination: entry.nat_destination,
                nat_source_port: entry.nat_source_port,
                nat_destination_port: entry.nat_destination_port,
                reserved: 0,
            };
            Some((key.to_vec(), former.as_bytes().to_vec()))
        }
    };
}

flow_of_1!(flow_v4, flow_v4_back: CtEntryV4Of1, CtKeyV4, CtEntryV4, AddrV4);
flow_of_1!(flow_v6, flow_v6_back: CtEntryV6Of1, CtKeyV6, CtEntryV6, AddrV6);

/// Where the protocol stood in the key of a socket: behind the cookie, the address of a frontend that takes 8 or 20 bytes, and
/// the port.
fn protocol_place(frontend: &[u8]) -> Option<usize> {
    let address = frontend.len().checked_sub(2 * size_of::<u16>())?;
    Some(size_of::<u64>() + address + size_of::<u16>())
}

/// Sockets of UDP are remembered elsewhere now, each by itself.
pub(super) fn socket(key: &[u8], value: &[u8]) -> Option<Entry> {
    let mut present = key.to_vec();
    let protocol = present.get_mut(protocol_place(value)?)?;
    if std::mem::take(protocol) != proto::TCP {
        return None;
    }
    Some((present, value.to_vec()))
}

fn socket_back(key: &[u8], value: &[u8]) -> Option<Entry> {
    let mut former = key.to_vec();
    *former.get_mut(protocol_place(value)?)? = proto::TCP;
    Some((former, value.to_vec()))
}

/// It knew pod CIDRs whose nodes are on the link, and took every next hop for one of those.
fn route_back(key: &[u8], value: &[u8]) -> Option<Entry> {
    let RouteValue { ifindex, kind, next_hop, .. } = RouteValue::read_from_bytes(value).ok()?;
    if !matches!(kind, kind::DIRECT | kind::GATEWAY) {
        return None;
    }
    // The prefix length comes before the address.
    let addr = key.len().checked_sub(size_of::<u32>())?;
    Some((key.to_vec(), [ifindex.as_bytes(), next_hop.get(..addr)?].concat()))
}

/// It knew no backends that only keep their flows: they are behind the others.
fn frontend_back(key: &[u8], value: &[u8]) -> Option<Entry> {
    let FrontendValue { service_id, backends_start, backends_count, flags, .. } =
        FrontendValue::read_from_bytes(value).ok()?;
    let counts = [backends_count.as_bytes(), flags.as_bytes()].concat();
    Some((key.to_vec(), [service_id.as_bytes(), backends_start.as_bytes(), &counts].concat()))
}

/// How a map of the first release is filled from the present one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Back {
    /// It is the same.
    Same,
    Entries(Entries),
    /// The numbers of each CPU.
    Counts,
    /// The version of all maps.
    Version,
    /// What it held was of the last seconds.
    Empty,
}

/// What `META` of the first release says.
pub(super) const ABI_VERSION: u32 = 1;

/// The layout that a map had in the first release, and how it is filled; `None` where there was no such map.
pub(super) fn layout(map: MapId) -> Option<(MapSpec, Back)> {
    let spec = map.spec();
    let with_values = |value_size| MapSpec { value_size, ..spec };
    let flows = |value_size, convert| {
        // The time came first.
        let last_seen = |value: &[u8]| value.first_chunk().copied().map(u64::from_ne_bytes);
        (with_values(value_size), Back::Entries(Entries { convert, last_seen }))
    };
    let routes = |value_size| {
        let entries = Entries { convert: route_back, last_seen: |_| None };
        (MapSpec { max_entries: 16_384, ..with_values(value_size) }, Back::Entries(entries))
    };
    Some(match map {
        MapId::META => {
            let numbers = MapSpec {
                kind: MapKind::Array,
                key_size: 4,
                value_size: 4,
                max_entries: 1,
                flags: 0,
                ..spec
            };
            (numbers, Back::Version)
        }
        MapId::CT_NEW_V4 | MapId::CT_EST_V4 => flows(48, flow_v4_back),
        MapId::CT_NEW_V6 | MapId::CT_EST_V6 => flows(72, flow_v6_back),
        MapId::ROUTES_V4 => routes(8),
        MapId::ROUTES_V6 => routes(20),
        MapId::SOCKETS_V4 | MapId::SOCKETS_V6 => {
            (spec, Back::Entries(Entries { convert: socket_back, last_seen: |_| None }))
        }
        MapId::FRONTENDS_V4 | MapId::FRONTENDS_V6 => {
            (with_values(12), Back::Entries(Entries { convert: frontend_back, last_seen: |_| None }))
        }
        MapId::FRAGMENTS_V4 => (with_values(4), Back::Empty),
        MapId::FRAGMENTS_V6 => (MapSpec { key_size: 40, ..with_values(4) }, Back::Empty),
        MapId::COUNTERS => (MapSpec { max_entries: 4 * 64, ..spec }, Back::Counts),
        MapId::POLICY_EPOCH
        | MapId::ENDPOINTS_V4
        | MapId::ENDPOINTS_V6
        | MapId::BACKENDS_V4
        | MapId::BACKENDS_V6
        | MapId::CLASSES_V4
        | MapId::CLASSES_V6
        | MapId::CIDRS_V4
        | MapId::CIDRS_V6
        | MapId::POLICIES
        | MapId::DENIED_FLOWS => (spec, Back::Same),
        MapId::PREFIXES
        | MapId::HOST_PATHS
        | MapId::CT_HOST
        | MapId::NETNS
        | MapId::CT_SHARES
        | MapId::CT_DIRECT
        | MapId::CARRYING_OVER
        | MapId::EARLY_FRAGMENTS
        | MapId::EARLY_RINGS
        | MapId::REJECTIONS
        | MapId::UDP_PINS
        | MapId::UDP_PEERS => return None,
    })
}

#[cfg(test)]
mod tests {
    use dataplane_common::{
        conntrack::half,
        socket::{SocketKeyV4, SocketKeyV6, SocketValueV4, SocketValueV6},
    };
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn a_flow_keeps_what_it_knows_both_ways() {
        let state = CtState1 {
            last_seen: 7,
            epoch: 4,
            service_id: 9,
            egress_rule: 1,
            ingress_rule: 2,
            half: half::BACKEND,
            origin_high: 1,
            replied: 1,
            fin_original: 1,
            fin_reply: 0,
            closed: 0,
            from_host: 1,
            backend_gone: 1,
        };
        let key = CtKeyV4 { low_port: Be16::new(80), proto: proto::TCP, ..CtKeyV4::new_zeroed() };
        let former = CtEntryV4Of1 {
            state,
            nat_source: AddrV4::new([10, 0, 0, 1]),
            nat_destination: AddrV4::new([10, 0, 0, 2]),
            nat_source_port: Be16::new(1),
            nat_destination_port: Be16::new(2),
            reserved: 0,
        };
        let (same, value) = flow_v4(key.as_bytes(), former.as_bytes()).unwrap();
        assert_eq!(same, key.as_bytes());
        let entry = CtEntryV4::read_from_bytes(&value).unwrap();
        assert_eq!(entry.state.tag, key.tag());
        let kept =
            [entry.state.epoch, entry.state.service_id, entry.state.egress_rule, entry.state.ingress_rule];
        assert_eq!((entry.state.last_seen, kept), (7, [4, 9, 1, 2]));
        let CtState { half, origin_high, replied, fin_original, fin_reply, from_host, backend_gone, .. } =
            entry.state;
        assert_eq!(
            [half, origin_high, replied, fin_original, fin_reply, from_host, backend_gone],
            [half::BACKEND, 1, 1, 1, 0, 1, 1]
        );
        assert_eq!(
            (entry.nat_source, entry.nat_destination_port),
            (former.nat_source, former.nat_destination_port)
        );
        assert_eq!(flow_v4_back(&same, &value).unwrap(), (same, former.as_bytes().to_vec()));
        let denied = CtEntryV4 { state: CtState { denied: 1, ..entry.state }, ..entry };
        assert!(flow_v4_back(key.as_bytes(), denied.as_bytes()).is_none());
        let direct = CtKeyV4 { zone: zone::DIRECT, ..key };
        assert!(flow_v4_back(direct.as_bytes(), entry.as_bytes()).is_none());
        let v6 = vec![0; size_of::<CtEntryV6Of1>()];
        let (_, value) = flow_v6(&[0; size_of::<CtKeyV6>()], &v6).unwrap();
        assert_eq!(value.len(), size_of::<CtEntryV6>());
    }

    #[test]
    fn tcp_sockets_are_found_by_their_keys_both_ways_and_udp_sockets_are_left() {
        let v4 = SocketKeyV4 { cookie: 5, port: Be16::new(80), ..SocketKeyV4::new_zeroed() };
        let v6 = SocketKeyV6 { cookie: 5, port: Be16::new(80), ..SocketKeyV6::new_zeroed() };
        for (key, protocol, value) in
            [(v4.as_bytes(), 14, size_of::<SocketValueV4>()), (v6.as_bytes(), 26, size_of::<SocketValueV6>())]
        {
            for (proto, expected) in [(proto::TCP, Some(key.to_vec())), (proto::UDP, None)] {
                let mut former = key.to_vec();
                former[protocol] = proto;
                let carried = socket(&former, &vec![1; value]);
                assert_eq!(carried.as_ref().map(|(key, _)| key.clone()), expected);
                let back = carried.map(|(key, value)| socket_back(&key, &value).unwrap().0);
                assert_eq!(back, expected.map(|_| former));
            }
        }
    }

    #[test]
    fn only_routes_to_next_hops_go_back() {
        let key = [&24_u32.to_ne_bytes()[..], &[10, 0, 1, 0]].concat();
        let mut next_hop = [0; 16];
        next_hop[..4].copy_from_slice(&[192, 0, 2, 7]);
        let route = |kind| RouteValue { ifindex: 5, kind, family: 2, next_hop };
        let (same, value) = route_back(&key, route(kind::GATEWAY).as_bytes()).unwrap();
        assert_eq!((same, value), (key.clone(), [&5_u32.to_ne_bytes()[..], &[192, 0, 2, 7]].concat()));
        for kind in [kind::STACK, kind::SERVICE] {
            assert!(route_back(&key, route(kind).as_bytes()).is_none());
        }
    }

    #[test]
    fn a_frontend_goes_back_with_the_backends_that_it_chooses_from() {
        let value = FrontendValue {
            service_id: 1,
            backends_start: 2,
            backends_count: 3,
            kept_count: 4,
            flags: 5,
            reserved: 0,
        };
        let former =
            [&1_u32.to_ne_bytes()[..], &2_u32.to_ne_bytes(), &3_u16.to_ne_bytes(), &5_u16.to_ne_bytes()];
        assert_eq!(frontend_back(&[9], value.as_bytes()), Some((vec![9], former.concat())));
    }
}
