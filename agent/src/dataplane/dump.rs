//! Reading the maps back, so that a restarted agent knows what is already right.
use agent_core::{entry, observed::Observed, table::Table};
use bpf_maps::{Entry, Error};
use dataplane_common::maps::MapId;

use super::maps::Maps;

/// What the maps hold.
pub(super) fn observe(maps: &Maps) -> Result<Observed, Error> {
    let mut failed = Ok(());
    let observed = Observed::from_dump(|map| {
        dump(maps, map).unwrap_or_else(|error| {
            failed = Err(error);
            Vec::new()
        })
    });
    failed.map(|()| observed)
}

/// The entries of a map. Of the backends only the slots that a frontend uses: the rest is free.
fn dump(maps: &Maps, id: MapId) -> Result<Vec<Entry>, Error> {
    if Table::of(id) == Some(Table::Backends) {
        return used_slots(maps, id, Table::Frontends.beside(id));
    }
    maps.get(id).dump()
}

fn used_slots(maps: &Maps, array: MapId, frontends: MapId) -> Result<Vec<Entry>, Error> {
    let frontends = maps.get(frontends).dump()?;
    let ranges = frontends.iter().filter_map(|(_, value)| {
        let value = entry::frontend_value(value)?;
        Some((value.backends_start, value.slots()))
    });
    let mut entries = Vec::new();
    for (start, count) in merged(ranges.collect()) {
        entries.extend(maps.slots(array, start, count)?);
    }
    Ok(entries)
}

/// Slots that one system call reads, at most.
const LONGEST: u32 = 1 << 15;

/// Joins ranges of slots that touch, so that few calls read them all.
fn merged(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.retain(|(_, count)| *count > 0);
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (start, count) in ranges {
        let end = start.saturating_add(count);
        match merged.last_mut() {
            Some((first, length)) if start <= *first + *length && end - *first <= LONGEST => {
                *length = (end - *first).max(*length);
            }
            _ => merged.push((start, count)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_or_overlap_are_read_together() {
        let ranges = vec![(10, 5), (0, 4), (4, 2), (12, 1), (30, 0), (20, 3)];
        assert_eq!(merged(ranges), [(0, 6), (10, 5), (20, 3)]);
    }

    #[test]
    fn a_long_run_of_ranges_is_read_in_pieces() {
        let ranges: Vec<_> = (0..40).map(|range| (range * 1_000, 1_000)).collect();
        let merged = merged(ranges);
        assert_eq!(merged.iter().map(|(_, count)| count).sum::<u32>(), 40_000);
        assert!(merged.len() > 1 && merged.iter().all(|(_, count)| *count <= LONGEST), "{merged:?}");
    }
}
