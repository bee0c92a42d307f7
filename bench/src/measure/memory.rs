//! Memory of processes, of maps, and of the kernel as a whole.
use std::{fs, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result};
use bpf_maps::{Map, MillraceDir, obj_get};
use dataplane_common::maps::MapId;

const KIB: u64 = 1024;

/// Resident and proportional memory of a process, in bytes.
pub(crate) fn of_process(pid: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name| number_after(&text, name).with_context(|| format!("{path} has no {name}"));
    Ok((field("Rss:")? * KIB, field("Pss:")? * KIB))
}

/// What the kernel charges for the maps pinned below a bpffs, in bytes.
pub(crate) fn of_maps(bpffs: &Path) -> Result<u64> {
    let dir = MillraceDir::new(bpffs);
    MapId::ALL.iter().map(|map| memlock(&dir.map_path(*map))).sum()
}

fn memlock(pin: &Path) -> Result<u64> {
    let map = obj_get(pin).with_context(|| format!("open {}", pin.display()))?;
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    number_after(&text, "memlock:").with_context(|| format!("no memlock of {}", pin.display()))
}

/// Memory of the kernel's own, in bytes: slabs, vmalloc areas and per-CPU memory.
pub(crate) fn of_kernel() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    ["Slab:", "VmallocUsed:", "Percpu:"]
        .iter()
        .map(|name| number_after(&text, name).with_context(|| format!("/proc/meminfo has no {name}")))
        .sum::<Result<u64>>()
        .map(|kib| kib * KIB)
}

/// Memory that programs can still get, in bytes.
pub(crate) fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kib = number_after(&text, "MemAvailable:").context("/proc/meminfo has no MemAvailable")?;
    Ok(kib * KIB)
}

/// Deletes every entry of pinned maps.
pub(crate) fn empty(bpffs: &Path, maps: &[MapId]) -> Result<()> {
    let dir = MillraceDir::new(bpffs);
    for id in maps {
        let name = id.spec().name;
        let map = Map::open_checked(&dir, *id).with_context(|| format!("open {name}"))?;
        let entries = map.dump().with_context(|| format!("read {name}"))?;
        let keys: Vec<Vec<u8>> = entries.into_iter().map(|(key, _)| key).collect();
        map.delete_batch(&keys).with_context(|| format!("empty {name}"))?;
    }
    Ok(())
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "Slab:  12 kB\nPss_Anon:  7 kB\nPss:      3 kB\nmemlock:\t4096\n";
        assert_eq!(number_after(text, "Pss:"), Some(3));
        assert_eq!(number_after(text, "memlock:"), Some(4096));
        assert_eq!(number_after(text, "Rss:"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let (rss, pss) = of_process(std::process::id()).expect("read");
        assert!(rss >= pss && pss > 0, "{rss} {pss}");
    }
}
