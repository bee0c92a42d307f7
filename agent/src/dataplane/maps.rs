//! The pinned maps: adopted when they are ours and right, created when they are missing.
use std::{collections::BTreeMap, path::PathBuf};

use bpf_maps::{Cursor, Entry, Map, MillraceDir};
use dataplane_common::{ABI_VERSION, maps::MapId};

/// Why the maps cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error(transparent)]
    Map(#[from] bpf_maps::Error),
    #[error(
        "the maps in {} are of ABI version {found}, this agent speaks version {ABI_VERSION}: run the agent that made \
         them, or drain the node, remove that directory and start this agent again",
        .dir.display()
    )]
    AbiVersion { dir: PathBuf, found: u32 },
}

/// Every map of [`MapId::ALL`], open.
#[derive(Debug)]
pub(crate) struct Maps(BTreeMap<MapId, Map>);

/// The only slot of `META` and of `POLICY_EPOCH`.
const SLOT: [u8; 4] = 0u32.to_ne_bytes();

impl Maps {
    /// Opens the pinned maps after a check of their version and layouts, and creates and pins the missing ones.
    /// Nothing is created when one of them does not fit.
    pub(crate) fn open_or_create(dir: &MillraceDir) -> Result<Self, MapsError> {
        if let Some(meta) = open(dir, MapId::META)? {
            check_version(dir, &meta)?;
        }
        let mut maps = BTreeMap::new();
        let mut missing = Vec::new();
        for &id in MapId::ALL {
            match open(dir, id)? {
                Some(map) => _ = maps.insert(id, map),
                None => missing.push(id),
            }
        }
        for &id in &missing {
            let map = Map::create(&id.spec())?;
            if id == MapId::META {
                // Before it is pinned, so that a pinned META always tells its version.
                map.update(&SLOT, &ABI_VERSION.to_ne_bytes())?;
            }
            map.pin(&dir.map_path(id))?;
            maps.insert(id, map);
        }
        tracing::info!("adopted {} pinned maps, created {}", maps.len() - missing.len(), missing.len());
        Ok(Self(maps))
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

fn open(dir: &MillraceDir, id: MapId) -> Result<Option<Map>, bpf_maps::Error> {
    match Map::open_checked(dir, id) {
        Ok(map) => Ok(Some(map)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_version(dir: &MillraceDir, meta: &Map) -> Result<(), MapsError> {
    let slot = meta.lookup(&SLOT)?.unwrap_or_default();
    let found = slot.try_into().map_or(0, u32::from_ne_bytes);
    if found == ABI_VERSION {
        return Ok(());
    }
    Err(MapsError::AbiVersion { dir: dir.maps_dir(), found })
}
