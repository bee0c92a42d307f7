//! Maps of another layout, which this agent's take the place of without a moment in which none are in use.
//!
//! The agent fills its own beside them (`NAME:next`) while the programs that run use the others. When all is in sync, flows
//! and sockets are carried over, then every pin gets its place (`NAME:former` and `NAME`; the last one is that of `META`,
//! which makes it so), then the links get the new programs, and what the former maps got meanwhile is carried over as well.
//! An agent that ends before `META` has its place leaves all as it was, one that ends later is continued by the next.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bpf_maps::{Map, MillraceDir, Pin, Versions};
use dataplane_common::{endpoint::EndpointValue, maps::MapId};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    Maps, MapsError,
    carry::{Carried, add_counts},
    convert::{Way, way},
};

/// A map of another layout.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) map: Map,
    pub(super) version: u32,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The former maps are in use.
    Filling,
    /// The pins have their places; links may still run former programs.
    Switching,
}

/// What is to be done about maps of another layout.
#[derive(Debug)]
pub(crate) struct Takeover {
    dir: MillraceDir,
    former: BTreeMap<MapId, Former>,
    stage: Stage,
    carried: BTreeMap<MapId, Carried>,
}

/// Undoes what an agent left that ended before its maps had their places.
pub(super) fn recover(dir: &MillraceDir) -> Result<(), bpf_maps::Error> {
    let is_undecided = dir.pin_path(MapId::META, Pin::Next).exists();
    for &id in MapId::ALL {
        if is_undecided && id != MapId::META {
            dir.move_pin(id, Pin::Former, Pin::Current)?;
        }
        if id != MapId::META {
            dir.remove_pin(id, Pin::Next)?;
        }
    }
    // Last: an agent that ends here begins once more.
    dir.remove_pin(MapId::META, Pin::Next).map(drop)
}

/// Gives every map that is to take the place of another its place. `META` is the last, in one step: until then [`recover`] undoes
/// it all.
pub(super) fn give_places<'a>(
    dir: &MillraceDir,
    former: impl Iterator<Item = &'a MapId>,
) -> Result<(), bpf_maps::Error> {
    for &id in former.filter(|id| **id != MapId::META) {
        dir.move_pin(id, Pin::Current, Pin::Former)?;
    }
    for &id in MapId::ALL.iter().filter(|id| **id != MapId::META) {
        dir.move_pin(id, Pin::Next, Pin::Current)?;
    }
    dir.move_pin(MapId::META, Pin::Next, Pin::Current).map(drop)
}

impl Takeover {
    pub(super) fn new(dir: &MillraceDir, former: BTreeMap<MapId, Former>) -> Result<Self, MapsError> {
        for (&id, Former { version, .. }) in &former {
            let spec = id.spec();
            if way(id, *version).is_none() {
                return Err(MapsError::Unknown { map: spec.name, found: *version, expected: spec.version });
            }
        }
        for &id in MapId::ALL {
            // Of an agent whose maps are former ones now.
            dir.remove_pin(id, Pin::Former)?;
        }
        Ok(Self { dir: dir.clone(), former, stage: Stage::Filling, carried: BTreeMap::new() })
    }

    /// What an agent with these maps did not finish.
    pub(super) fn interrupted(dir: &MillraceDir, versions: &Versions) -> Result<Option<Self>, MapsError> {
        let mut former = BTreeMap::new();
        for &id in MapId::ALL {
            match Map::open(&dir.pin_path(id, Pin::Former)) {
                Ok(map) => _ = former.insert(id, Former { map, version: versions.of_former(id) }),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let takeover = Self { dir: dir.clone(), former, stage: Stage::Switching, carried: BTreeMap::new() };
        Ok((!takeover.former.is_empty()).then_some(takeover))
    }

    /// The versions of this agent's maps, and of those that they take the place of.
    pub(super) fn versions(&self) -> Versions {
        let former = self.former.iter();
        former.fold(Versions::current(), |versions, (&id, former)| versions.with_former(id, former.version))
    }

    /// Where a map of this agent is pinned.
    pub(crate) fn pin(&self, map: MapId) -> Pin {
        let is_next = self.stage == Stage::Filling && self.dir.pin_path(map, Pin::Next).exists();
        if is_next { Pin::Next } else { Pin::Current }
    }

    /// The map that is in use in place of one of this agent's.
    pub(crate) fn former(&self, map: MapId) -> Option<&Map> {
        self.former.get(&map).map(|former| &former.map)
    }

    /// Whether the former maps are still in use, and links are to be left alone.
    pub(crate) fn is_filling(&self) -> bool {
        self.stage == Stage::Filling
    }

    /// Carries over what flows and sockets depend on, and gives every pin its place. To be called when the maps that are
    /// rendered are filled; the links come next.
    pub(crate) fn place(&mut self, maps: &Maps) -> Result<(), bpf_maps::Error> {
        if self.stage == Stage::Switching {
            return Ok(());
        }
        for (&id, former) in &self.former {
            if let Some(Way::Entries(entries)) = way(id, former.version) {
                self.carried.insert(id, entries.carry(&former.map, maps.get(id))?);
            }
        }
        self.carry_translated(maps)?;
        give_places(&self.dir, self.former.keys())?;
        self.stage = Stage::Switching;
        Ok(())
    }

    /// Carries over the flows that the former maps got since, when no program uses them any more.
    pub(crate) fn carry_later_flows(&self, maps: &Maps) -> Result<(), bpf_maps::Error> {
        self.former
            .iter()
            .filter(|(id, _)| is_of_flows(**id))
            .try_for_each(|(&id, former)| self.carry_later(id, former, maps))
    }

    fn carry_later(&self, id: MapId, former: &Former, maps: &Maps) -> Result<(), bpf_maps::Error> {
        let Some(Way::Entries(entries)) = way(id, former.version) else { return Ok(()) };
        let nothing = Carried::new();
        entries.carry_later(&former.map, maps.get(id), self.carried.get(&id).unwrap_or(&nothing))
    }

    /// Carries over the rest of what they got, and lets them go.
    pub(crate) fn finish(&self, maps: &Maps) -> Result<(), bpf_maps::Error> {
        for (&id, former) in self.former.iter().filter(|(id, _)| !is_of_flows(**id)) {
            self.carry_later(id, former, maps)?;
            if matches!(way(id, former.version), Some(Way::Counts)) {
                add_counts(&former.map, maps.get(id))?;
            }
        }
        self.carry_translated(maps)?;
        for &id in self.former.keys() {
            self.dir.remove_pin(id, Pin::Former)?;
        }
        Ok(())
    }

    /// An endpoint whose flows were ever translated has entries to be looked for. The programs say so in its value.
    fn carry_translated(&self, maps: &Maps) -> Result<(), bpf_maps::Error> {
        for id in [MapId::ENDPOINTS_V4, MapId::ENDPOINTS_V6] {
            let Some(former) = self.former.get(&id) else { continue };
            for (key, value) in former.map.dump()? {
                let is_translated =
                    EndpointValue::read_from_bytes(&value).is_ok_and(|value| value.translated != 0);
                let present = maps.get(id).lookup(&key)?.filter(|_| is_translated);
                let present = present.and_then(|value| EndpointValue::read_from_bytes(&value).ok());
                if let Some(value) = present {
                    maps.get(id).update(&key, EndpointValue { translated: 1, ..value }.as_bytes())?;
                }
            }
        }
        Ok(())
    }
}

/// Whether packets look for their flows there.
const fn is_of_flows(map: MapId) -> bool {
    matches!(map, MapId::CT_NEW_V4 | MapId::CT_NEW_V6 | MapId::CT_EST_V4 | MapId::CT_EST_V6)
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&str> = self.former.keys().map(|id| id.spec().name).collect();
        f.write_str(&names.into_iter().collect::<Vec<_>>().join(", "))
    }
}
