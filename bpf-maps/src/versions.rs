//! Which version the pinned maps are of: what `META` says.
use std::collections::BTreeMap;

use dataplane_common::maps::{MapId, MapKind, MapName};

use crate::{Entry, Error, Map, MillraceDir, Result, dir::Pin, map::text};

/// The versions of pinned maps, by the name of the pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<String, u32>);

/// What `META` held before it was a table: one number for all maps.
const FIRST_ABI: u32 = 1;

impl Versions {
    /// The versions of every map of this build.
    #[must_use]
    pub fn current() -> Self {
        Self(MapId::ALL.iter().map(|id| (id.spec().name.to_owned(), id.spec().version)).collect())
    }

    /// Adds a pin that keeps what another took the place of.
    #[must_use]
    pub fn with_former(mut self, map: MapId, version: u32) -> Self {
        self.0.insert(Pin::Former.name(map), version);
        self
    }

    /// Reads what the pinned maps are of; `None` where there is no `META`.
    ///
    /// # Errors
    /// When `META` cannot be read, or was written before maps had versions of their own by anything but the first release.
    pub fn read(dir: &MillraceDir) -> Result<Option<Self>> {
        let path = dir.map_path(MapId::META);
        let meta = match Map::open(&path) {
            Ok(meta) => meta,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        if meta.info().kind != MapKind::Array {
            return meta.dump().map(|entries| Some(Self::of_entries(&entries)));
        }
        let slot = meta.lookup(&0_u32.to_ne_bytes())?.unwrap_or_default();
        match slot.try_into().map(u32::from_ne_bytes) {
            Ok(FIRST_ABI) => {
                Ok(Some(Self(MapId::ALL.iter().map(|id| (id.spec().name.to_owned(), FIRST_ABI)).collect())))
            }
            found => Err(Error::Abi { path: dir.maps_dir(), found: found.unwrap_or_default() }),
        }
    }

    fn of_entries(entries: &[Entry]) -> Self {
        let versions = entries.iter().filter_map(|(name, version)| {
            Some((text(name), u32::from_ne_bytes(version.as_slice().try_into().ok()?)))
        });
        Self(versions.collect())
    }

    /// The entries of `META`.
    #[must_use]
    pub fn to_entries(&self) -> Vec<Entry> {
        let entry = |(name, version): (&String, &u32)| {
            let mut key: MapName = [0; _];
            key[..name.len()].copy_from_slice(name.as_bytes());
            (key.to_vec(), version.to_ne_bytes().to_vec())
        };
        self.0.iter().map(entry).collect()
    }

    /// The version of a map; 0 when `META` does not name it.
    #[must_use]
    pub fn of(&self, map: MapId) -> u32 {
        self.of_pin(map, Pin::Current)
    }

    /// The version of what another map took the place of.
    #[must_use]
    pub fn of_former(&self, map: MapId) -> u32 {
        self.of_pin(map, Pin::Former)
    }

    /// Refuses a map of another version than this build's.
    ///
    /// # Errors
    /// [`Error::Version`].
    pub fn check(&self, map: MapId) -> Result<()> {
        let (spec, found) = (map.spec(), self.of(map));
        if found == spec.version {
            return Ok(());
        }
        Err(Error::Version { map: spec.name.to_owned(), found, expected: spec.version })
    }

    fn of_pin(&self, map: MapId, pin: Pin) -> u32 {
        self.0.get(&pin.name(map)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_say_the_versions() {
        let versions = Versions::current().with_former(MapId::CT_EST_V4, 7);
        let read = Versions::of_entries(&versions.to_entries());
        assert_eq!(read, versions);
        assert_eq!(read.of(MapId::CT_EST_V4), MapId::CT_EST_V4.spec().version);
        assert_eq!((read.of_former(MapId::CT_EST_V4), read.of_former(MapId::CT_EST_V6)), (7, 0));
    }

    #[test]
    fn every_name_fits_its_key() {
        for map in MapId::ALL {
            assert!(
                [Pin::Current, Pin::Next, Pin::Former]
                    .iter()
                    .all(|pin| pin.name(*map).len() < size_of::<MapName>())
            );
        }
    }
}
