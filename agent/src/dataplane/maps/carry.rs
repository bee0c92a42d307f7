//! Carrying entries from one map to another, of another layout or size.
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use bpf_maps::{Cursor, Entry, Map};
use dataplane_common::maps::MapKind;

/// Entries that are carried at a time.
const PORTION: usize = 16_384;

/// What was carried over: a hash of each value, by the key. To ask the kernel for each once more takes a hundred times longer.
pub(super) type Carried = HashMap<Vec<u8>, u64>;

/// How the entries of one layout are written in another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries {
    /// An entry in the other layout; `None` is not carried over.
    pub(super) convert: fn(&[u8], &[u8]) -> Option<Entry>,
    /// The time of the last packet in a value of the other layout, where it has one.
    pub(super) last_seen: fn(&[u8]) -> Option<u64>,
}

impl Entries {
    /// Writes every entry of one map to another.
    pub(super) fn carry(self, from: &Map, to: &Map) -> Result<Carried, bpf_maps::Error> {
        let mut carried = Carried::new();
        each_portion(from, |entries| {
            let entries: Vec<Entry> =
                entries.iter().filter_map(|(key, value)| (self.convert)(key, value)).collect();
            carried.extend(entries.iter().map(|(key, value)| (key.clone(), hash(value))));
            write(to, &entries)
        })?;
        Ok(carried)
    }

    /// Writes what is not as it was [`Self::carry`]d, unless the other map has it from a later packet: whoever writes there
    /// knows more.
    pub(super) fn carry_later(self, from: &Map, to: &Map, carried: &Carried) -> Result<(), bpf_maps::Error> {
        if from.info().kind == MapKind::Array {
            return Ok(());
        }
        each_portion(from, |entries| {
            let mut later = Vec::new();
            for (key, value) in entries.iter().filter_map(|(key, value)| (self.convert)(key, value)) {
                if carried.get(&key) == Some(&hash(&value)) {
                    continue;
                }
                let is_later = match to.lookup(&key)? {
                    None => true,
                    Some(there) => (self.last_seen)(&there) < (self.last_seen)(&value),
                };
                if is_later {
                    later.push((key, value));
                }
            }
            write(to, &later)
        })
    }
}

fn hash(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn each_portion(
    map: &Map,
    mut take: impl FnMut(&[Entry]) -> Result<(), bpf_maps::Error>,
) -> Result<(), bpf_maps::Error> {
    let mut cursor = Some(Cursor::Start);
    while let Some(from) = cursor.take() {
        let (entries, next) = map.dump_chunk(&from, PORTION)?;
        take(&entries)?;
        cursor = next;
    }
    Ok(())
}

/// A map that is smaller than the one before may have no room for all.
fn write(map: &Map, entries: &[Entry]) -> Result<(), bpf_maps::Error> {
    match map.update_batch(entries) {
        Err(error) if error.is_full() => {
            tracing::warn!("not everything was carried over: {error}");
            Ok(())
        }
        written => written,
    }
}

/// Adds up the numbers of both, of each CPU by itself.
pub(super) fn add_counts(former: &Map, present: &Map) -> Result<(), bpf_maps::Error> {
    let sum = |(a, b): (&[u8], &[u8])| {
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        number(a).wrapping_add(number(b)).to_ne_bytes()
    };
    let slots = former.info().max_entries.min(present.info().max_entries);
    for slot in (0..slots).map(u32::to_ne_bytes) {
        let Some(counted) = former.lookup(&slot)?.filter(|counted| counted.iter().any(|byte| *byte != 0))
        else {
            continue;
        };
        let there = present.lookup(&slot)?.unwrap_or_else(|| vec![0; counted.len()]);
        let (counted, there) = (counted.chunks(size_of::<u64>()), there.chunks(size_of::<u64>()));
        let added: Vec<u8> = counted.zip(there).flat_map(sum).collect();
        present.update(&slot, &added)?;
    }
    Ok(())
}
