//! The way back: maps as the first release had them, for an agent of it to go on with.
use std::collections::BTreeMap;

use bpf_maps::{Map, MillraceDir, Pin, Versions};
use dataplane_common::maps::MapId;

use super::{
    MapsError,
    carry::{Carried, add_counts},
    first::{self, Back},
    takeover::give_places,
};

/// A map that changes.
#[derive(Debug)]
struct Change {
    /// In use by the programs of this release.
    from: Map,
    /// For the agent of the first release.
    to: Map,
    back: Back,
    carried: Carried,
}

/// Maps of the first release that have their places, beside those that are in use.
#[derive(Debug)]
pub(crate) struct Rollback {
    dir: MillraceDir,
    changes: BTreeMap<MapId, Change>,
}

impl Rollback {
    /// Makes and fills them, and gives them their places. The programs that run go on with the others.
    pub(crate) fn prepare(dir: &MillraceDir) -> Result<Self, MapsError> {
        let versions = Versions::read(dir)?.unwrap_or_default();
        let mut changes = BTreeMap::new();
        for &id in MapId::ALL {
            let spec = id.spec();
            if versions.of(id) != spec.version {
                return Err(MapsError::NotOurs {
                    map: spec.name,
                    found: versions.of(id),
                    expected: spec.version,
                });
            }
            let Some((layout, back)) = first::layout(id) else { continue };
            let from = Map::open_checked(dir, id)?;
            if matches!(back, Back::Same) && from.info().max_entries == layout.max_entries {
                continue;
            }
            changes.insert(id, Change { from, to: Map::create(&layout)?, back, carried: Carried::new() });
        }
        for (id, Change { from, to, back, carried }) in &mut changes {
            dir.remove_pin(*id, Pin::Next)?;
            dir.remove_pin(*id, Pin::Former)?;
            match back {
                Back::Entries(entries) => *carried = entries.carry(from, to)?,
                Back::Version => to.update(&0_u32.to_ne_bytes(), &first::ABI_VERSION.to_ne_bytes())?,
                Back::Same | Back::Counts | Back::Empty => {}
            }
            to.pin(&dir.pin_path(*id, Pin::Next))?;
        }
        give_places(dir, changes.keys())?;
        Ok(Self { dir: dir.clone(), changes })
    }

    /// Carries over what the maps that are in use got meanwhile.
    pub(crate) fn follow(&self) -> Result<(), bpf_maps::Error> {
        for Change { from, to, back, carried } in self.changes.values() {
            if let Back::Entries(entries) = back {
                entries.carry_later(from, to, carried)?;
            }
        }
        Ok(())
    }

    /// Lets the maps go, when no program uses them any more.
    pub(crate) fn finish(&self) -> Result<(), bpf_maps::Error> {
        self.follow()?;
        for (id, Change { from, to, back, .. }) in &self.changes {
            if matches!(back, Back::Counts) {
                add_counts(from, to)?;
            }
            self.dir.remove_pin(*id, Pin::Former)?;
        }
        Ok(())
    }
}
