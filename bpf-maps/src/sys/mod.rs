//! The system call. Every function here checks the sizes that make its call sound, so the rest of the crate is safe.
use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use zerocopy::{FromBytes, IntoBytes};

/// Commands of bpf(2) (`enum bpf_cmd`).
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ProgTestRun = 10,
    ProgFdById = 13,
    ObjInfo = 15,
    ProgQuery = 16,
    BtfLoad = 18,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkUpdate = 29,
    LinkDetach = 34,
    #[cfg(test)]
    ProgLoad = 5,
    #[cfg(test)]
    LinkCreate = 28,
}

/// Declares the part of `union bpf_attr` that one group of commands uses. `IntoBytes` proves that no padding, and
/// so no uninitialised byte, reaches the kernel.
macro_rules! attr {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
        #[repr(C)]
        $vis struct $name { $($(#[$field_meta])* pub(crate) $field: $ty),+ }
    };
}

pub(crate) mod btf;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod map;
pub(crate) mod object;

/// # Safety
/// Every pointer in `attr` covers the bytes that the kernel reads and writes for `command`.
unsafe fn call<T: FromBytes + IntoBytes>(command: Command, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is initialised for its whole size; its pointers are the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as u32, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Like [`call`], for a command that returns a file descriptor.
///
/// # Safety
/// As [`call`], and `command` returns a new descriptor.
unsafe fn call_for_fd<T: FromBytes + IntoBytes>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attr) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(bytes: &[T]) -> u64 {
    bytes.as_ptr() as u64
}

fn address_mut<T>(bytes: &mut [T]) -> u64 {
    bytes.as_mut_ptr() as u64
}

fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))
}

/// Refuses a buffer that the kernel would read or write beyond its end.
fn require(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
