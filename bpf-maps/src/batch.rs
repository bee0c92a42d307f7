//! Many entries per system call.
use std::{collections::HashSet, io};

use dataplane_common::maps::MapKind;

use crate::{
    Error, Map, Operation, Result,
    map::is_missing,
    sys::{self, map::LookupBatch},
};

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A key, and its value on each possible CPU.
pub type PerCpuEntry = (Vec<u8>, Vec<Vec<u8>>);

/// Entries per system call. Larger batches are no faster, and the buffers grow.
const BATCH: usize = 4096;

/// The kernel's `ENOTSUPP`, which libc does not name: the map type has no batch operation.
const ENOTSUPP: i32 = 524;

/// Where a dump continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    #[default]
    Start,
    /// The kernel's own position.
    Batch(Vec<u8>),
    /// The last key, for a map without batch look-up.
    Key(Vec<u8>),
}

impl Map {
    /// Writes entries, each whole; a reader sees some before others.
    ///
    /// # Errors
    /// [`Error::Partial`] tells how many are written, in order, before the one that failed.
    pub fn update_batch(&self, entries: &[Entry]) -> Result<()> {
        let sizes = self.sizes();
        for (key, value) in entries {
            self.check("key", sizes.key, key.len())?;
            self.check("value", sizes.value, value.len())?;
        }
        let mut written = 0;
        for chunk in entries.chunks(BATCH) {
            let keys: Vec<u8> = chunk.iter().flat_map(|(key, _)| key).copied().collect();
            let values: Vec<u8> = chunk.iter().flat_map(|(_, value)| value).copied().collect();
            let (done, result) = sys::map::update_batch(self.fd(), sizes, &keys, &values);
            written += done;
            let result = match result {
                Err(error) if is_unsupported(&error) => self.update_each(chunk, &mut written),
                other => other,
            };
            result.map_err(|source| self.partial(Operation::Update, written, entries.len(), source))?;
        }
        Ok(())
    }

    fn update_each(&self, entries: &[Entry], written: &mut usize) -> io::Result<()> {
        for (key, value) in entries {
            sys::map::update(self.fd(), self.sizes(), key, value)?;
            *written += 1;
        }
        Ok(())
    }

    /// Deletes entries and returns how many were there; one that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Partial`] tells how many are dealt with, in order, before the one that failed.
    pub fn delete_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<usize> {
        let sizes = self.sizes();
        for key in keys {
            self.check("key", sizes.key, key.as_ref().len())?;
        }
        let (mut position, mut deleted) = (0, 0);
        while position < keys.len() {
            let chunk = &keys[position..keys.len().min(position + BATCH)];
            let bytes: Vec<u8> = chunk.iter().flat_map(AsRef::as_ref).copied().collect();
            let (done, result) = sys::map::delete_batch(self.fd(), sizes, &bytes);
            position += done;
            deleted += done;
            match result {
                Ok(()) => {}
                // The kernel stops at a key that is gone.
                Err(error) if is_missing(&error) => position += 1,
                Err(error) if is_unsupported(&error) => {
                    deleted += usize::from(self.delete(keys[position].as_ref())?);
                    position += 1;
                }
                Err(error) => return Err(self.partial(Operation::Delete, position, keys.len(), error)),
            }
        }
        Ok(deleted)
    }

    /// Every entry; of an array, every slot. Entries that others write meanwhile may or may not be there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut cursor = Some(Cursor::Start);
        while let Some(from) = cursor.take() {
            let (mut chunk, next) = self.dump_chunk(&from, BATCH)?;
            entries.append(&mut chunk);
            // A trie restarts at its first key when the key to continue from was deleted.
            let bound = 2 * self.info().max_entries as usize;
            cursor = next.filter(|_| entries.len() <= bound);
        }
        if self.info().kind == MapKind::LpmTrie {
            let mut seen = HashSet::new();
            entries.retain(|(key, _)| seen.insert(key.clone()));
        }
        Ok(entries)
    }

    /// Every entry of a per-CPU map, with the value of each possible CPU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump_per_cpu(&self) -> Result<Vec<PerCpuEntry>> {
        Ok(self.dump()?.into_iter().map(|(key, value)| (key, self.split_cpus(&value))).collect())
    }

    /// The number of entries; of an array, the number of slots. Reads the whole map.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn count(&self) -> Result<usize> {
        if matches!(self.info().kind, MapKind::Array | MapKind::PerCpuArray) {
            return Ok(self.info().max_entries as usize);
        }
        Ok(self.dump()?.len())
    }

    /// The next entries, about `limit` of them (more when one bucket of a hash holds more), and where to continue;
    /// `None` at the end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dump_chunk(&self, from: &Cursor, limit: usize) -> Result<(Vec<Entry>, Option<Cursor>)> {
        let start = match from {
            Cursor::Start => None,
            Cursor::Batch(position) => Some(position.as_slice()),
            Cursor::Key(key) => return self.walk(Some(key), limit),
        };
        let sizes = self.sizes();
        let mut count = u32::try_from(limit.clamp(1, BATCH * 16)).unwrap_or(u32::MAX);
        loop {
            let mut next = vec![0; sys::map::cursor_size(sizes)];
            let mut keys = vec![0; sizes.key * count as usize];
            let mut values = vec![0; sizes.value * count as usize];
            let mut batch =
                LookupBatch { from: start, next: &mut next, keys: &mut keys, values: &mut values };
            let (found, result) = sys::map::lookup_batch(self.fd(), sizes, count, &mut batch);
            let end = match result {
                Ok(()) => false,
                Err(error) if is_missing(&error) => true,
                Err(error) if is_unsupported(&error) && start.is_none() => return self.walk(None, limit),
                // One bucket holds more than fits.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && found == 0 && count < 1 << 20 => {
                    count *= 2;
                    continue;
                }
                Err(error) => return Err(self.failed(Operation::Dump, error)),
            };
            let entries = keys.chunks(sizes.key).zip(values.chunks(sizes.value)).take(found);
            let entries = entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            return Ok((entries, (!end).then_some(Cursor::Batch(next))));
        }
    }

    /// Key by key, for a map without batch look-up.
    fn walk(&self, from: Option<&[u8]>, limit: usize) -> Result<(Vec<Entry>, Option<Cursor>)> {
        let mut entries = Vec::new();
        let mut key = from.map(<[u8]>::to_vec);
        for _ in 0..limit.max(1) {
            let mut next = vec![0; self.sizes().key];
            match sys::map::next_key(self.fd(), self.sizes(), key.as_deref(), &mut next) {
                Ok(()) => {}
                Err(error) if is_missing(&error) => return Ok((entries, None)),
                Err(error) => return Err(self.failed(Operation::Dump, error)),
            }
            if let Some(value) = self.lookup(&next)? {
                entries.push((next.clone(), value));
            }
            key = Some(next);
        }
        Ok((entries, key.map(Cursor::Key)))
    }

    fn partial(&self, operation: Operation, done: usize, total: usize, source: io::Error) -> Error {
        Error::Partial { operation, map: self.info().name.clone(), done, total, source }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP))
}
