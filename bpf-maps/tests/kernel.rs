//! Maps and pins on the running kernel. Needs root.
use std::{
    fs, io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use bpf_maps::{Cursor, Entry, Error, Field, Map, MillraceDir};
use dataplane_common::maps::{MapId, MapKind, MapSpec, NO_PREALLOC};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A bpffs of its own, gone when the test ends.
struct Bpffs {
    dir: tempfile::TempDir,
}

impl Bpffs {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let none: Option<&str> = None;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none)
            .expect("mount a bpffs (needs root)");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.dir.path(), MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.dir.path().display());
        }
    }
}

const fn spec(kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> MapSpec {
    let flags = match kind {
        MapKind::Hash | MapKind::LpmTrie | MapKind::SkStorage => NO_PREALLOC,
        MapKind::Array | MapKind::PerCpuArray | MapKind::LruHash => 0,
    };
    MapSpec { name: "millrace_test", version: 1, kind, key_size, value_size, max_entries, flags }
}

fn entry(key: u32, value: u64) -> Entry {
    (key.to_ne_bytes().to_vec(), value.to_ne_bytes().to_vec())
}

/// A trie key: prefix length, then the address.
fn prefix(len: u32, addr: [u8; 4]) -> Vec<u8> {
    [len.to_ne_bytes(), addr].concat()
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort();
    entries
}

#[test]
fn a_hash_gives_back_what_a_batch_wrote() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 20_000)).unwrap();
    let entries: Vec<Entry> = (0..10_000).map(|key| entry(key, u64::from(key) * 3)).collect();
    map.update_batch(&entries).unwrap();
    assert_eq!(sorted(map.dump().unwrap()), sorted(entries));
    assert_eq!(map.count().unwrap(), 10_000);
    assert_eq!(map.lookup(&7_u32.to_ne_bytes()).unwrap(), Some(21_u64.to_ne_bytes().to_vec()));
    assert_eq!(map.lookup(&10_001_u32.to_ne_bytes()).unwrap(), None);
}

#[test]
fn an_lru_hash_evicts_instead_of_failing() {
    let map = Map::create(&spec(MapKind::LruHash, 4, 8, 1_024)).unwrap();
    let entries: Vec<Entry> = (0..10_000).map(|key| entry(key, 1)).collect();
    map.update_batch(&entries).unwrap();
    let left = map.count().unwrap();
    assert!((1..=1_024).contains(&left), "{left} entries");
}

#[test]
fn a_socket_storage_holds_a_value_for_a_socket_as_long_as_that_lives() {
    let map = Map::create(&spec(MapKind::SkStorage, 4, 16, 0)).unwrap();
    assert_eq!(map.info().kind, MapKind::SkStorage);
    let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let [one_key, other_key] = [&one, &other].map(|socket| socket.as_raw_fd().to_ne_bytes());
    // The first word is the lock, which nobody sees.
    let value = [[0; 4], [7; 4], [8; 4], [9; 4]].concat();
    map.update(&one_key, &value).unwrap();
    assert_eq!(map.lookup(&one_key).unwrap(), Some(value));
    assert_eq!(map.lookup(&other_key).unwrap(), None);
}

#[test]
fn a_trie_is_written_dumped_and_answers_with_the_longest_prefix() {
    let map = Map::create(&spec(MapKind::LpmTrie, 8, 4, 100)).unwrap();
    let entries = vec![
        (prefix(8, [10, 0, 0, 0]), vec![1; 4]),
        (prefix(24, [10, 0, 1, 0]), vec![2; 4]),
        (prefix(32, [10, 0, 1, 9]), vec![3; 4]),
    ];
    map.update_batch(&entries).unwrap();
    assert_eq!(sorted(map.dump().unwrap()), sorted(entries));
    assert_eq!(map.lookup(&prefix(32, [10, 0, 1, 8])).unwrap(), Some(vec![2; 4]));
    assert_eq!(map.lookup(&prefix(32, [11, 0, 0, 0])).unwrap(), None);
    assert_eq!(map.delete_batch(&[prefix(24, [10, 0, 1, 0])]).unwrap(), 1);
    assert_eq!(map.lookup(&prefix(32, [10, 0, 1, 8])).unwrap(), Some(vec![1; 4]));
}

#[test]
fn an_array_dumps_every_slot_and_is_written_by_index() {
    let map = Map::create(&spec(MapKind::Array, 4, 8, 5_000)).unwrap();
    map.update_batch(&[entry(4_999, 9), entry(17, 8)]).unwrap();
    let slots = map.dump().unwrap();
    assert_eq!(slots.len(), 5_000);
    assert_eq!((slots[17].clone(), slots[4_999].clone()), (entry(17, 8), entry(4_999, 9)));
    assert_eq!(slots[0], entry(0, 0));
    assert_eq!(map.count().unwrap(), 5_000);
}

#[test]
fn a_per_cpu_array_has_one_value_for_each_possible_cpu() {
    let map = Map::create(&spec(MapKind::PerCpuArray, 4, 4, 3)).unwrap();
    let per_cpu = map.lookup_per_cpu(&1_u32.to_ne_bytes()).unwrap().unwrap();
    let cpus = per_cpu.len();
    assert!(cpus >= 1);
    // The kernel wants 8 bytes for each CPU, also for a value of 4.
    let values: Vec<u8> = (0..cpus as u64).flat_map(|cpu| (cpu + 5).to_ne_bytes()).collect();
    map.update(&1_u32.to_ne_bytes(), &values).unwrap();
    let dump = map.dump_per_cpu().unwrap();
    assert_eq!(dump.len(), 3);
    let expected: Vec<Vec<u8>> =
        (0..cpus).map(|cpu| u32::try_from(cpu + 5).unwrap().to_ne_bytes().to_vec()).collect();
    assert_eq!(dump[1], (1_u32.to_ne_bytes().to_vec(), expected));
}

#[test]
fn a_dump_in_chunks_meets_every_entry_once() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 5_000)).unwrap();
    let entries: Vec<Entry> = (0..5_000).map(|key| entry(key, 0)).collect();
    map.update_batch(&entries).unwrap();
    let (mut found, mut chunks, mut cursor) = (Vec::new(), 0, Some(Cursor::Start));
    while let Some(from) = cursor {
        let (mut chunk, next) = map.dump_chunk(&from, 64).unwrap();
        assert!(chunk.len() <= 64 * 8, "a chunk of {} for 64", chunk.len());
        found.append(&mut chunk);
        chunks += 1;
        cursor = next;
    }
    assert_eq!(sorted(found), sorted(entries));
    assert!(chunks > 50, "{chunks} chunks");
}

#[test]
fn entries_deleted_between_chunks_do_not_stop_the_dump() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 5_000)).unwrap();
    map.update_batch(&(0..5_000).map(|key| entry(key, 0)).collect::<Vec<_>>()).unwrap();
    let mut cursor = Some(Cursor::Start);
    while let Some(from) = cursor {
        let (chunk, next) = map.dump_chunk(&from, 100).unwrap();
        let keys: Vec<_> = chunk.into_iter().map(|(key, _)| key).collect();
        assert_eq!(map.delete_batch(&keys).unwrap(), keys.len());
        cursor = next;
    }
    assert_eq!(map.count().unwrap(), 0);
}

#[test]
fn deleting_what_is_gone_is_no_error() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 100)).unwrap();
    map.update_batch(&[entry(1, 1), entry(2, 2), entry(4, 4)]).unwrap();
    let keys: Vec<_> = (0..6_u32).map(u32::to_ne_bytes).collect();
    assert_eq!(map.delete_batch(&keys).unwrap(), 3);
    assert_eq!(map.dump().unwrap(), Vec::new());
    assert!(!map.delete(&keys[1]).unwrap());
    map.update(&keys[1], &[0; 8]).unwrap();
    assert!(map.delete(&keys[1]).unwrap());
}

#[test]
fn a_full_hash_says_so_and_how_far_it_came() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 10)).unwrap();
    let error = map.update_batch(&(0..12).map(|key| entry(key, 0)).collect::<Vec<_>>()).unwrap_err();
    assert!(matches!(error, Error::Partial { done: 10, total: 12, .. }), "{error:?}");
    assert!(error.is_full());
    let text = error.to_string();
    assert!(text.contains("write to millrace_test after 10 of 12 entries: the map is full"), "{text}");
    let error = map.update(&99_u32.to_ne_bytes(), &[0; 8]).unwrap_err();
    assert!(error.is_full() && error.errno() == Some(libc_errno("E2BIG")), "{error}");
}

#[test]
fn a_full_trie_says_so() {
    let map = Map::create(&spec(MapKind::LpmTrie, 8, 4, 2)).unwrap();
    let entries: Vec<Entry> = (0..3).map(|last| (prefix(32, [10, 0, 0, last]), vec![0; 4])).collect();
    let error = map.update_batch(&entries).unwrap_err();
    assert!(matches!(error, Error::Partial { done: 2, total: 3, .. }), "{error:?}");
    assert!(error.is_full() && error.errno() == Some(libc_errno("ENOSPC")), "{error}");
}

fn libc_errno(name: &str) -> i32 {
    match name {
        "E2BIG" => nix::errno::Errno::E2BIG as i32,
        _ => nix::errno::Errno::ENOSPC as i32,
    }
}

#[test]
fn a_key_of_another_size_is_refused_before_the_kernel_reads_it() {
    let map = Map::create(&spec(MapKind::Hash, 4, 8, 10)).unwrap();
    assert!(matches!(map.lookup(&[0; 3]), Err(Error::Size { part: "key", expected: 4, found: 3, .. })));
    assert!(matches!(
        map.update(&[0; 4], &[0; 4]),
        Err(Error::Size { part: "value", expected: 8, found: 4, .. })
    ));
    let error = map.update_batch(&[entry(1, 1), (vec![0; 4], vec![0; 16])]).unwrap_err();
    assert_eq!(error.to_string(), "millrace_test takes 8 bytes of value, not 16");
    assert_eq!(map.count().unwrap(), 0);
}

#[test]
fn a_pinned_map_is_found_again_with_its_entries() {
    let bpffs = Bpffs::mount();
    let dir = MillraceDir::new(bpffs.path());
    dir.create().unwrap();
    let spec = MapId::ENDPOINTS_V4.spec();
    let map = Map::create(&spec).unwrap();
    map.pin(&dir.map_path(MapId::ENDPOINTS_V4)).unwrap();
    map.update(&[10, 0, 0, 1], &[7; 28]).unwrap();
    drop(map);
    let map = Map::open_checked(&dir, MapId::ENDPOINTS_V4).unwrap();
    assert_eq!(map.dump().unwrap(), vec![(vec![10, 0, 0, 1], vec![7; 28])]);
    assert_eq!((map.info().name.as_str(), map.info().max_entries), ("ENDPOINTS_V4", spec.max_entries));
    let error = map.pin(&dir.map_path(MapId::ENDPOINTS_V4)).unwrap_err();
    assert!(error.to_string().contains("something is pinned there already"), "{error}");
}

#[test]
fn a_pinned_map_of_another_layout_is_refused_and_the_field_is_named() {
    let bpffs = Bpffs::mount();
    let right = spec(MapKind::Hash, 4, 8, 100);
    let wrong = [
        (Field::Kind, MapSpec { kind: MapKind::LruHash, flags: 0, ..right }),
        (Field::KeySize, MapSpec { key_size: 8, ..right }),
        (Field::ValueSize, MapSpec { value_size: 4, ..right }),
        (Field::Flags, MapSpec { flags: 0, ..right }),
    ];
    for (index, (expected, layout)) in wrong.into_iter().enumerate() {
        let path = bpffs.pin(&format!("map{index}"));
        Map::create(&layout).unwrap().pin(&path).unwrap();
        let error = Map::open_as(&path, &right).unwrap_err();
        let Error::Layout { field, path: named, .. } = &error else { panic!("{error}") };
        assert_eq!((*field, named), (expected, &path));
    }
    let path = bpffs.pin("right");
    Map::create(&right).unwrap().pin(&path).unwrap();
    Map::open_as(&path, &right).unwrap();
    // How many entries a map may have is an option.
    Map::open_as(&path, &MapSpec { max_entries: 50, ..right }).unwrap();
}

#[test]
fn every_map_of_the_table_can_be_created() {
    for id in MapId::ALL {
        let spec = id.spec();
        let map = Map::create(&spec).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(map.info().name, spec.name);
    }
}

#[test]
fn a_missing_pin_and_a_missing_bpffs_are_told_apart() {
    let bpffs = Bpffs::mount();
    let dir = MillraceDir::new(bpffs.path());
    dir.check().unwrap();
    assert!(!dir.exists().unwrap());
    assert_eq!(dir.link_names().unwrap(), Vec::<String>::new());
    let error = Map::open_checked(&dir, MapId::META).unwrap_err();
    assert!(error.is_missing() && error.to_string().contains("nothing is pinned there"), "{error}");

    let plain = tempfile::tempdir().unwrap();
    let path = plain.path().display();
    let error = MillraceDir::new(plain.path()).check().unwrap_err();
    assert_eq!(error.to_string(), format!("{path} is not a bpffs: mount -t bpf bpf {path}"));
    assert!(matches!(MillraceDir::new("/nowhere/bpf").check(), Err(Error::NotBpffs { .. })));
}

#[test]
fn the_directory_is_for_root_only_and_for_one_agent() {
    use std::os::unix::fs::PermissionsExt;
    let bpffs = Bpffs::mount();
    let dir = MillraceDir::new(bpffs.path());
    dir.create().unwrap();
    dir.create().unwrap();
    assert!(dir.exists().unwrap());
    let mode = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777);
    let modes: io::Result<Vec<u32>> =
        [dir.root(), dir.maps_dir(), dir.links_dir()].into_iter().map(mode).collect();
    assert_eq!(modes.unwrap(), [0o700; 3]);

    let held = dir.lock().unwrap();
    assert!(matches!(dir.lock(), Err(Error::Locked { .. })));
    drop(held);
    dir.lock().unwrap();

    fs::set_permissions(dir.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = dir.check().unwrap_err();
    assert!(matches!(error, Error::Unsafe { owner: 0, mode: 0o777, .. }), "{error}");
}
