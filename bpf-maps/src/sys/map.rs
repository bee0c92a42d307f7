//! Commands on maps.
use std::{
    ffi::c_long,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use zerocopy::FromZeros;

use super::{Command, address, address_mut, btf, call, call_for_fd, length, raw, require};

attr! { struct CreateAttr {
    kind: u32, key_size: u32, value_size: u32, max_entries: u32, flags: u32,
    inner_map_fd: u32, numa_node: u32, name: [u8; 16], ifindex: u32,
    btf_fd: u32, btf_key_type: u32, btf_value_type: u32,
} }
attr! { struct ElementAttr { map_fd: u32, reserved: u32, key: u64, value: u64, flags: u64 } }
attr! { struct BatchAttr {
    in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, element_flags: u64, flags: u64,
} }

/// The sizes of one map, in bytes as the kernel copies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) key: usize,
    /// All CPUs together for a per-CPU map.
    pub(crate) value: usize,
}

pub(crate) fn create(
    name: &str,
    kind: u32,
    sizes: [u32; 2],
    max_entries: u32,
    flags: u32,
    btf: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr::new_zeroed();
    let name = name.as_bytes();
    // The last byte stays 0: the kernel wants a C string.
    let len = name.len().min(attr.name.len() - 1);
    attr.name[..len].copy_from_slice(&name[..len]);
    (attr.kind, attr.max_entries, attr.flags) = (kind, max_entries, flags);
    [attr.key_size, attr.value_size] = sizes;
    if let Some(btf) = btf {
        (attr.btf_fd, attr.btf_key_type, attr.btf_value_type) = (raw(btf), btf::KEY_TYPE, btf::VALUE_TYPE);
    }
    // SAFETY: the attributes hold no pointer; the command returns a descriptor.
    unsafe { call_for_fd(Command::MapCreate, &mut attr) }
}

pub(crate) fn lookup(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    require(key.len() == sizes.key && value.len() == sizes.value)?;
    let mut attr =
        ElementAttr { map_fd: raw(map), reserved: 0, key: address(key), value: address_mut(value), flags: 0 };
    // SAFETY: key and value have the sizes of the map.
    unsafe { call(Command::MapLookup, &mut attr) }.map(drop)
}

pub(crate) fn update(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8], value: &[u8]) -> io::Result<()> {
    require(key.len() == sizes.key && value.len() == sizes.value)?;
    let mut attr =
        ElementAttr { map_fd: raw(map), reserved: 0, key: address(key), value: address(value), flags: 0 };
    // SAFETY: key and value have the sizes of the map, and the kernel only reads them.
    unsafe { call(Command::MapUpdate, &mut attr) }.map(drop)
}

pub(crate) fn delete(map: BorrowedFd<'_>, sizes: Sizes, key: &[u8]) -> io::Result<()> {
    require(key.len() == sizes.key)?;
    let mut attr = ElementAttr { map_fd: raw(map), reserved: 0, key: address(key), value: 0, flags: 0 };
    // SAFETY: the key has the size of the map's keys.
    unsafe { call(Command::MapDelete, &mut attr) }.map(drop)
}

/// The key after `key`; the first one after `None`.
pub(crate) fn next_key(
    map: BorrowedFd<'_>,
    sizes: Sizes,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<()> {
    require(key.is_none_or(|key| key.len() == sizes.key) && next.len() == sizes.key)?;
    let key = key.map_or(0, address);
    let mut attr = ElementAttr { map_fd: raw(map), reserved: 0, key, value: address_mut(next), flags: 0 };
    // SAFETY: both keys have the size of the map's keys; the first may be null.
    unsafe { call(Command::MapNextKey, &mut attr) }.map(drop)
}

/// Buffers of one batched look-up.
pub(crate) struct LookupBatch<'a> {
    /// Where the last batch ended; `None` at the start.
    pub(crate) from: Option<&'a [u8]>,
    /// Where this batch ended. As long as a key and at least 4 bytes, the bucket number of a hash.
    pub(crate) next: &'a mut [u8],
    pub(crate) keys: &'a mut [u8],
    pub(crate) values: &'a mut [u8],
}

/// Length of the position in a batched look-up.
pub(crate) fn cursor_size(sizes: Sizes) -> usize {
    sizes.key.max(size_of::<u32>())
}

/// How many entries were copied, and the error that ended the batch, if any.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    sizes: Sizes,
    count: u32,
    batch: &mut LookupBatch<'_>,
) -> (usize, io::Result<()>) {
    let entries = count as usize;
    let fits = batch.keys.len() == sizes.key * entries
        && batch.values.len() == sizes.value * entries
        && batch.next.len() == cursor_size(sizes)
        && batch.from.is_none_or(|from| from.len() == cursor_size(sizes));
    if let Err(error) = require(fits) {
        return (0, Err(error));
    }
    let mut attr = BatchAttr {
        in_batch: batch.from.map_or(0, address),
        out_batch: address_mut(batch.next),
        keys: address_mut(batch.keys),
        values: address_mut(batch.values),
        count,
        map_fd: raw(map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: keys and values have room for `count` entries, the positions for what the kernel keeps in them.
    let result = unsafe { call(Command::MapLookupBatch, &mut attr) };
    done(attr.count, count, result)
}

/// How many entries were written, and the error that ended the batch, if any.
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    sizes: Sizes,
    keys: &[u8],
    values: &[u8],
) -> (usize, io::Result<()>) {
    let entries = keys.len() / sizes.key;
    if let Err(error) = require(keys.len() == entries * sizes.key && values.len() == entries * sizes.value) {
        return (0, Err(error));
    }
    write_batch(Command::MapUpdateBatch, map, entries, keys, values)
}

/// How many entries were deleted, and the error that ended the batch, if any.
pub(crate) fn delete_batch(map: BorrowedFd<'_>, sizes: Sizes, keys: &[u8]) -> (usize, io::Result<()>) {
    let entries = keys.len() / sizes.key;
    if let Err(error) = require(keys.len() == entries * sizes.key) {
        return (0, Err(error));
    }
    write_batch(Command::MapDeleteBatch, map, entries, keys, &[])
}

fn write_batch(
    command: Command,
    map: BorrowedFd<'_>,
    entries: usize,
    keys: &[u8],
    values: &[u8],
) -> (usize, io::Result<()>) {
    let count = match length(entries) {
        Ok(count) => count,
        Err(error) => return (0, Err(error)),
    };
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values: if values.is_empty() { 0 } else { address(values) },
        count,
        map_fd: raw(map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the callers checked that keys and values hold `count` entries; the kernel only reads them.
    let result = unsafe { call(command, &mut attr) };
    done(attr.count, count, result)
}

/// The kernel stores the number of finished entries also with an error; a call that it refused before the first
/// entry leaves the number as it was.
fn done(reported: u32, asked: u32, result: io::Result<c_long>) -> (usize, io::Result<()>) {
    match result {
        Ok(_) => (reported as usize, Ok(())),
        // The last batch of a dump ends so, and may be full.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => (reported as usize, Err(error)),
        Err(error) if reported == asked => (0, Err(error)),
        Err(error) => (reported as usize, Err(error)),
    }
}
