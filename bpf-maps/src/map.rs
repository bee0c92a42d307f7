//! One map: open, create, pin, and single entries.
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use dataplane_common::maps::{MapId, MapKind, MapSpec};

use crate::{
    Error, Field, MillraceDir, Operation, Result,
    sys::{self, map::Sizes, object::RawMapInfo},
};

/// What the kernel knows of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub id: u32,
    pub name: String,
    pub kind: MapKind,
    pub key_size: u32,
    /// Of one CPU, for a per-CPU map.
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// An open map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    info: MapInfo,
    sizes: Sizes,
}

impl Map {
    /// Opens a pinned map without comparing its layout.
    ///
    /// # Errors
    /// When nothing is pinned there, or the caller may not open it.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = crate::obj_get(path)?;
        Self::adopt(fd, &path.display().to_string())
    }

    /// Opens a pinned map of Millrace and refuses one of another layout. How many entries it may have is an option of the
    /// agent. Its version is not looked at: see [`Versions`](crate::Versions).
    ///
    /// # Errors
    /// As [`Self::open`], and [`Error::Layout`].
    pub fn open_checked(dir: &MillraceDir, map: MapId) -> Result<Self> {
        Self::open_as(&dir.map_path(map), &map.spec())
    }

    /// Opens a pinned map and refuses one whose layout is not `spec`, number of entries apart.
    ///
    /// # Errors
    /// As [`Self::open`], and [`Error::Layout`].
    pub fn open_as(path: &Path, spec: &MapSpec) -> Result<Self> {
        let map = Self::open(path)?;
        let compared = [
            (Field::Kind, spec.kind as u32, map.info.kind as u32),
            (Field::KeySize, spec.key_size, map.info.key_size),
            (Field::ValueSize, spec.value_size, map.info.value_size),
            (Field::Flags, spec.flags, map.info.flags),
        ];
        match compared.into_iter().find(|(_, expected, found)| expected != found) {
            None => Ok(map),
            Some((field, expected, found)) => Err(Error::Layout {
                map: spec.name.to_owned(),
                path: path.to_owned(),
                field,
                expected,
                found,
            }),
        }
    }

    /// Creates a map. It lives as long as this value, a program or a pin holds it.
    ///
    /// # Errors
    /// When the kernel refuses the layout, or the caller may not create maps.
    pub fn create(spec: &MapSpec) -> Result<Self> {
        let failed =
            |source| Error::Syscall { operation: Operation::Create, object: spec.name.to_owned(), source };
        let sizes = [spec.key_size, spec.value_size];
        let btf = match spec.kind {
            MapKind::SkStorage => Some(sys::btf::load_storage(spec.value_size).map_err(failed)?),
            MapKind::Hash | MapKind::Array | MapKind::PerCpuArray | MapKind::LruHash | MapKind::LpmTrie => {
                None
            }
        };
        let btf = btf.as_ref().map(AsFd::as_fd);
        let fd = sys::map::create(spec.name, spec.kind as u32, sizes, spec.max_entries, spec.flags, btf)
            .map_err(failed)?;
        Self::adopt(fd, spec.name)
    }

    /// Takes over a map that something else opened.
    ///
    /// # Errors
    /// When the descriptor is not a map of a known type.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Self::adopt(fd, "a map")
    }

    fn adopt(fd: OwnedFd, object: &str) -> Result<Self> {
        let failed =
            |source| Error::Syscall { operation: Operation::Info, object: object.to_owned(), source };
        let raw: RawMapInfo = sys::object::info(fd.as_fd()).map_err(failed)?;
        let name = text(&raw.name);
        let kind = kind(raw.kind).ok_or(Error::UnknownKind { map: name.clone(), kind: raw.kind })?;
        let value = match kind {
            MapKind::PerCpuArray => slot(raw.value_size) * possible_cpus().map_err(failed)?,
            MapKind::Hash | MapKind::Array | MapKind::LruHash | MapKind::LpmTrie | MapKind::SkStorage => {
                raw.value_size as usize
            }
        };
        let info = MapInfo {
            id: raw.id,
            name,
            kind,
            key_size: raw.key_size,
            value_size: raw.value_size,
            max_entries: raw.max_entries,
            flags: raw.flags,
        };
        Ok(Self { fd, info, sizes: Sizes { key: raw.key_size as usize, value } })
    }

    /// Pins the map.
    ///
    /// # Errors
    /// When the path exists already, is not on a bpffs, or the caller may not write there.
    pub fn pin(&self, path: &Path) -> Result<()> {
        crate::obj_pin(self.fd.as_fd(), path)
    }

    /// What the kernel knows of the map.
    #[must_use]
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// The value of a key; of a per-CPU map, the values of all CPUs one after the other.
    ///
    /// # Errors
    /// When the key has another size, or the kernel refuses.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check("key", self.sizes.key, key.len())?;
        let mut value = vec![0; self.sizes.value];
        match sys::map::lookup(self.fd(), self.sizes, key, &mut value) {
            Ok(()) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(Operation::Lookup, error)),
        }
    }

    /// The value of a key of a per-CPU map, on each possible CPU.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn lookup_per_cpu(&self, key: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(self.lookup(key)?.map(|value| self.split_cpus(&value)))
    }

    /// Splits a value of a per-CPU map, as [`Self::lookup`] and [`Self::dump`] return it, into its CPUs.
    #[must_use]
    pub fn split_cpus(&self, value: &[u8]) -> Vec<Vec<u8>> {
        let size = self.info.value_size as usize;
        value.chunks(slot(self.info.value_size)).map(|cpu| cpu[..size.min(cpu.len())].to_vec()).collect()
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// When key or value have another size, the map is full, or the kernel refuses.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.check("key", self.sizes.key, key.len())?;
        self.check("value", self.sizes.value, value.len())?;
        sys::map::update(self.fd(), self.sizes, key, value)
            .map_err(|error| self.failed(Operation::Update, error))
    }

    /// Deletes one entry. `false` when it was not there.
    ///
    /// # Errors
    /// When the key has another size, or the map has no deletable entries (an array).
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        self.check("key", self.sizes.key, key.len())?;
        match sys::map::delete(self.fd(), self.sizes, key) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(self.failed(Operation::Delete, error)),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    pub(crate) fn check(&self, part: &'static str, expected: usize, found: usize) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::Size { map: self.info.name.clone(), part, expected, found })
    }

    pub(crate) fn failed(&self, operation: Operation, source: io::Error) -> Error {
        Error::Syscall { operation, object: self.info.name.clone(), source }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

pub(crate) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// A C string in a fixed field.
pub(crate) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn kind(number: u32) -> Option<MapKind> {
    let known = [
        MapKind::Hash,
        MapKind::Array,
        MapKind::PerCpuArray,
        MapKind::LruHash,
        MapKind::LpmTrie,
        MapKind::SkStorage,
    ];
    known.into_iter().find(|&kind| kind as u32 == number)
}

/// What one CPU's value takes: the kernel rounds up to 8 bytes.
fn slot(value_size: u32) -> usize {
    (value_size as usize).next_multiple_of(8)
}

/// CPUs that the kernel keeps per-CPU values for, present or not.
fn possible_cpus() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count_cpus(list.trim())
        .ok_or_else(|| io::Error::other(format!("/sys/devices/system/cpu/possible says {list:?}")))
}

/// The number of CPUs in a list such as `0-3,8`.
fn count_cpus(ranges: &str) -> Option<usize> {
    ranges
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            Some(last.checked_sub(first)? + 1)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_list_is_counted_with_its_gaps() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3"), Some(4));
        assert_eq!(count_cpus("0-1,4,8-15"), Some(11));
        assert_eq!(count_cpus("3-1"), None);
        assert_eq!(count_cpus(""), None);
    }
}
