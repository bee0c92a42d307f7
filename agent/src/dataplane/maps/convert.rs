//! Entries of former layouts in the present one. A release that changes a layout that is carried over adds the way from
//! the version before here; what is rendered needs none.
use bpf_maps::Entry;
use dataplane_common::{
    conntrack::{CtEntryV4, CtEntryV6},
    maps::{Keeping, MapId, MapKind},
};
use zerocopy::FromBytes as _;

use super::{carry::Entries, first};

/// What becomes of what a map of a former layout holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// The agent renders it.
    Rendered,
    /// It is of the last seconds, or for people.
    Forgotten,
    /// Each entry is written in the present layout.
    Entries(Entries),
    /// The numbers of each CPU are added.
    Counts,
}

/// The way from a version of a map to the present one; `None` when nobody knows it.
pub(super) fn way(map: MapId, version: u32) -> Option<Way> {
    let is_present = version == map.spec().version;
    match (map.keeping(), map.spec().kind) {
        (None, _) => Some(Way::Rendered),
        (Some(Keeping::Constant | Keeping::Forgotten), _) => Some(Way::Forgotten),
        (Some(Keeping::Carried), MapKind::PerCpuArray) => is_present.then_some(Way::Counts),
        // It lives in the sockets, where nobody else finds it.
        (Some(Keeping::Carried), MapKind::SkStorage) => None,
        (Some(Keeping::Carried), _) if is_present => Some(entries(map, as_it_is)),
        (Some(Keeping::Carried), _) => match (map, version) {
            (MapId::CT_NEW_V4 | MapId::CT_EST_V4, 1) => Some(entries(map, first::flow_v4)),
            (MapId::CT_NEW_V6 | MapId::CT_EST_V6, 1) => Some(entries(map, first::flow_v6)),
            (MapId::SOCKETS_V4 | MapId::SOCKETS_V6, 1) => Some(entries(map, first::socket)),
            // Without the end of the L4 header nobody knows what a later fragment overlaps.
            (MapId::FRAGMENTS_V4 | MapId::FRAGMENTS_V6, 1) => Some(Way::Forgotten),
            _ => None,
        },
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other map has a time in its values")]
fn entries(map: MapId, convert: fn(&[u8], &[u8]) -> Option<Entry>) -> Way {
    let last_seen = match map {
        MapId::CT_NEW_V4 | MapId::CT_EST_V4 => {
            |value: &[u8]| CtEntryV4::read_from_bytes(value).ok().map(|entry| entry.state.last_seen)
        }
        MapId::CT_NEW_V6 | MapId::CT_EST_V6 => {
            |value: &[u8]| CtEntryV6::read_from_bytes(value).ok().map(|entry| entry.state.last_seen)
        }
        _ => |_: &[u8]| None,
    };
    Way::Entries(Entries { convert, last_seen })
}

#[expect(clippy::unnecessary_wraps, reason = "one of several ways")]
fn as_it_is(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some((key.to_vec(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_way_from_its_own_version_but_storage_in_sockets() {
        for map in MapId::ALL {
            let spec = map.spec();
            assert_eq!(way(*map, spec.version).is_none(), spec.kind == MapKind::SkStorage, "{map:?}");
        }
        assert!(way(MapId::CT_EST_V4, 99).is_none());
    }
}
