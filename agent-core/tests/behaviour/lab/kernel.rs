//! What the programs make of the maps: the look-ups of `stage::policy` and `stage::service`, in plain code.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use agent_core::{
    entry::{self, Backend, Frontend, PolicyEntry, PortPrefix, Route, Way},
    oracle::Choice,
};
use dataplane_common::{
    maps::{MapId, MapKind},
    policy::{CLASS_ANY, Direction, PolicyKey},
    service::flag,
};
use ipnetwork::IpNetwork;

/// Maps as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    maps: BTreeMap<MapId, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Maps {
    pub(crate) fn upsert(&mut self, map: MapId, key: &[u8], value: &[u8]) {
        let spec = map.spec();
        assert_eq!(key.len(), spec.key_size as usize, "key of {}", spec.name);
        assert_eq!(value.len(), spec.value_size as usize, "value of {}", spec.name);
        let entries = self.maps.entry(map).or_default();
        entries.insert(key.to_vec(), value.to_vec());
        assert!(entries.len() <= spec.max_entries as usize, "{} overflows", spec.name);
    }

    pub(crate) fn delete(&mut self, map: MapId, key: &[u8]) {
        assert!(map.spec().kind != MapKind::Array, "{} is an array", map.spec().name);
        let entries = self.maps.get_mut(&map);
        assert!(
            entries.is_some_and(|entries| entries.remove(key).is_some()),
            "{} lacks a key",
            map.spec().name
        );
    }

    pub(crate) fn dump(&self, map: MapId) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.entries(map).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    pub(crate) fn entries(&self, map: MapId) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.maps.get(&map).into_iter().flatten().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    pub(crate) fn len(&self, map: MapId) -> usize {
        self.maps.get(&map).map_or(0, BTreeMap::len)
    }

    /// Whether an end of a flow that is a local pod lets it pass; `None`: it is no local pod, or not isolated.
    pub(crate) fn judge(
        &self,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        proto: u8,
        port: u16,
    ) -> Option<bool> {
        let (subject, peer) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let map = if subject.is_ipv4() { MapId::ENDPOINTS_V4 } else { MapId::ENDPOINTS_V6 };
        let endpoint = entry::endpoint_value(self.get(map, &entry::addr_to_bytes(subject))?)?;
        let set = match direction {
            Direction::Ingress => endpoint.ingress_set,
            Direction::Egress => endpoint.egress_set,
        };
        if set == 0 {
            return None;
        }
        let mut classes = self.classes_of(peer).into_iter().chain([CLASS_ANY]);
        Some(classes.any(|class| self.allows(set, class, proto, port)))
    }

    /// The classes of a peer: of its pod, of its address.
    pub(crate) fn classes_of(&self, peer: IpAddr) -> Vec<u32> {
        [self.class(peer), self.cidr_class(peer)].into_iter().flatten().collect()
    }

    fn class(&self, addr: IpAddr) -> Option<u32> {
        let map = if addr.is_ipv4() { MapId::CLASSES_V4 } else { MapId::CLASSES_V6 };
        entry::number_from_bytes(self.get(map, &entry::addr_to_bytes(addr))?)
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.get(MapId::POLICY_EPOCH, &[0; 4]).and_then(entry::number_from_bytes).unwrap_or_default()
    }

    /// The backends that a new flow may get.
    pub(crate) fn choice(&self, addr: IpAddr, port: u16, proto: u8) -> Choice {
        let map = if addr.is_ipv4() { MapId::FRONTENDS_V4 } else { MapId::FRONTENDS_V6 };
        let Some(value) = self.get(map, &Frontend::cluster(addr, port, proto).to_bytes()) else {
            let routes = if addr.is_ipv4() { MapId::ROUTES_V4 } else { MapId::ROUTES_V6 };
            let route = self.get(routes, &entry::prefix_to_bytes(addr.into())).and_then(Route::from_bytes);
            let is_service = route.is_some_and(|route| route.way == Way::Service);
            return if is_service { Choice::NoSuchPort } else { Choice::NotAService };
        };
        let value = entry::frontend_value(value).expect("the layout was checked");
        let backends = self.backends(addr, value.backends_start..value.kept_start());
        match (backends.is_empty(), value.flags & flag::DROP_WHEN_EMPTY != 0) {
            (false, _) => Choice::OneOf(backends),
            (true, true) => Choice::Drop,
            (true, false) => Choice::Reject,
        }
    }

    /// The backends that keep the flows which they have.
    pub(crate) fn keepers(&self, addr: IpAddr, port: u16, proto: u8) -> BTreeSet<Backend> {
        let map = if addr.is_ipv4() { MapId::FRONTENDS_V4 } else { MapId::FRONTENDS_V6 };
        let value = self.get(map, &Frontend::cluster(addr, port, proto).to_bytes());
        let Some(value) = value.and_then(entry::frontend_value) else { return BTreeSet::new() };
        self.backends(addr, value.backends_start..value.backends_start + value.slots())
    }

    fn backends(&self, addr: IpAddr, range: Range<u32>) -> BTreeSet<Backend> {
        let slots = if addr.is_ipv4() { MapId::BACKENDS_V4 } else { MapId::BACKENDS_V6 };
        let backend = |slot: u32| {
            let value = self.get(slots, &slot.to_ne_bytes()).expect("a frontend points to written slots");
            Backend::from_bytes(value).expect("the layout was checked")
        };
        range.map(backend).collect()
    }

    fn get(&self, map: MapId, key: &[u8]) -> Option<&[u8]> {
        self.maps.get(&map)?.get(key).map(Vec::as_slice)
    }

    fn cidr_class(&self, addr: IpAddr) -> Option<u32> {
        let (map, bits) = if addr.is_ipv4() { (MapId::CIDRS_V4, 32) } else { (MapId::CIDRS_V6, 128) };
        self.maps.get(&map)?;
        (0..=bits).rev().find_map(|len| {
            let prefix = IpNetwork::new(addr, len).expect("a valid length");
            entry::number_from_bytes(self.get(map, &entry::prefix_to_bytes(prefix))?)
        })
    }

    /// The longest prefix of (set, class, protocol, port) in `POLICIES`.
    fn allows(&self, set: u32, class: u32, proto: u8, port: u16) -> bool {
        let has = |ports| self.get(MapId::POLICIES, &PolicyEntry { set, class, ports }.to_bytes()).is_some();
        let by_port = (0..=16).rev().any(|bits| {
            let mask = u16::MAX.checked_shl(16 - bits).unwrap_or(0);
            has(PortPrefix { prefix_len: PolicyKey::prefix_len(bits), proto, port: port & mask })
        });
        by_port || has(PortPrefix::EVERYTHING)
    }
}
