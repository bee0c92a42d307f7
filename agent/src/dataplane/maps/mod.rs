//! The pinned maps: adopted when they are ours and right, created when they are missing, and taken over when they have
//! another layout.
mod back;
mod carry;
mod convert;
mod first;
mod takeover;

use std::collections::BTreeMap;

use bpf_maps::{Cursor, Entry, Map, MillraceDir, Pin, Versions};
use dataplane_common::maps::{MapId, MapSpec};

use self::takeover::{Former, recover};
pub(crate) use self::{back::Rollback, takeover::Takeover};

/// Why the maps cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error(transparent)]
    Map(#[from] bpf_maps::Error),
    #[error(
        "{map} is of version {found}, and this agent ({expected}) does not know how to carry it over: run the agent that made \
         it, or one in between; or drain the node, run `millrace-agent uninstall` and start this agent again"
    )]
    Unknown { map: &'static str, found: u32, expected: u32 },
    #[error(
        "{map} is of version {found}, not of {expected}: give the way back to the agent that made it, or start this one first"
    )]
    NotOurs { map: &'static str, found: u32, expected: u32 },
}

/// How many entries maps may have, where it is not as the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes(pub(crate) BTreeMap<MapId, u32>);

impl Sizes {
    /// The layout that a map is to have.
    pub(crate) fn spec(&self, map: MapId) -> MapSpec {
        let spec = map.spec();
        MapSpec { max_entries: self.0.get(&map).copied().unwrap_or(spec.max_entries), ..spec }
    }
}

/// Every map of [`MapId::ALL`], open: those that the programs of this agent use.
#[derive(Debug)]
pub(crate) struct Maps(BTreeMap<MapId, Map>);

impl Maps {
    /// Opens the pinned maps after a check of their versions and layouts, and creates and pins the missing ones. Where some
    /// are of another layout, this agent's are pinned beside them, and what is to be done is returned: until it is, the
    /// programs that run use the others. Nothing is created when one of them cannot be taken over.
    pub(crate) fn open_or_create(
        dir: &MillraceDir,
        sizes: &Sizes,
    ) -> Result<(Self, Option<Takeover>), MapsError> {
        recover(dir)?;
        let versions = Versions::read(dir)?.unwrap_or_default();
        let (mut present, mut former) = (BTreeMap::new(), BTreeMap::new());
        for &id in MapId::ALL {
            let map = match Map::open(&dir.map_path(id)) {
                Ok(map) => map,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(error.into()),
            };
            let (spec, version) = (sizes.spec(id), versions.of(id));
            if version == 0 && id != MapId::META {
                // Pinned by an agent that ended before it said so.
                dir.remove_pin(id, Pin::Current)?;
            } else if version == spec.version && map.info().max_entries == spec.max_entries {
                present.insert(id, Map::open_as(&dir.map_path(id), &spec)?);
            } else {
                former.insert(id, Former { map, version });
            }
        }
        // Those that are rendered refer to each other, and it is META that says what the others are.
        let is_rendered = |id: &MapId| id.keeping().is_none();
        if former.keys().any(is_rendered) {
            take_along(&mut present, &mut former, &versions, is_rendered);
        }
        if !former.is_empty() {
            take_along(&mut present, &mut former, &versions, |id| *id == MapId::META);
        }
        if former.is_empty() {
            let adopted = present.len();
            create(dir, sizes, Pin::Current, &Versions::current(), &mut present)?;
            tracing::info!("adopted {adopted} pinned maps, created {}", present.len() - adopted);
            return Ok((Self(present), Takeover::interrupted(dir, &versions)?));
        }
        let takeover = Takeover::new(dir, former)?;
        let adopted = present.len();
        create(dir, sizes, Pin::Next, &takeover.versions(), &mut present)?;
        let created = present.len() - adopted;
        tracing::info!(
            "adopted {adopted} pinned maps, created {created} that take the place of others: {takeover}"
        );
        Ok((Self(present), Some(takeover)))
    }

    pub(crate) fn get(&self, id: MapId) -> &Map {
        &self.0[&id]
    }

    /// The slots of an array from `start` on, in one system call.
    pub(crate) fn slots(&self, array: MapId, start: u32, count: u32) -> Result<Vec<Entry>, bpf_maps::Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        // A batch continues behind the last index of the batch before.
        let from = match start.checked_sub(1) {
            None => Cursor::Start,
            Some(before) => Cursor::Batch(before.to_ne_bytes().to_vec()),
        };
        Ok(self.get(array).dump_chunk(&from, count as usize)?.0)
    }
}

/// Has maps that are as they should be go with those that are not.
fn take_along(
    present: &mut BTreeMap<MapId, Map>,
    former: &mut BTreeMap<MapId, Former>,
    versions: &Versions,
    which: impl Fn(&MapId) -> bool,
) {
    for (id, map) in present.extract_if(.., |id, _| which(id)) {
        former.insert(id, Former { map, version: versions.of(id) });
    }
}

/// Creates and pins what is missing.
fn create(
    dir: &MillraceDir,
    sizes: &Sizes,
    pin: Pin,
    versions: &Versions,
    present: &mut BTreeMap<MapId, Map>,
) -> Result<(), bpf_maps::Error> {
    if let Some(meta) = present.get(&MapId::META)
        && pin == Pin::Current
    {
        meta.update_batch(&versions.to_entries())?;
    }
    // META first: pins that it does not name are those of nobody.
    let is_meta = |id: &&MapId| **id == MapId::META;
    for &id in MapId::ALL.iter().filter(is_meta).chain(MapId::ALL.iter().filter(|id| !is_meta(id))) {
        if present.contains_key(&id) {
            continue;
        }
        let map = Map::create(&sizes.spec(id))?;
        if id == MapId::META {
            // Before it is pinned, so that a pinned META always tells the versions.
            map.update_batch(&versions.to_entries())?;
        }
        map.pin(&dir.pin_path(id, pin))?;
        present.insert(id, map);
    }
    Ok(())
}
