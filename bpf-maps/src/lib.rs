//! Pinned BPF objects from user space: what aya does not offer, on the raw system call.
//!
//! A [`Map`] is checked against its [`MapSpec`](dataplane_common::maps::MapSpec) before it is used, is read and
//! written in batches, and names itself in every error. [`link`] and [`program`] swap and inspect what is attached;
//! [`MillraceDir`] knows where everything is pinned.
mod batch;
mod dir;
mod error;
pub mod link;
mod map;
pub mod program;
mod sys;
mod versions;

pub use crate::{
    batch::{Cursor, Entry, PerCpuEntry},
    dir::{MillraceDir, Pin},
    error::{Error, Field, Operation},
    map::{Map, MapInfo},
    versions::Versions,
};

/// What every call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Opens a pinned object of any kind.
///
/// # Errors
/// When nothing is pinned there, or the caller may not open it.
pub fn obj_get(path: &std::path::Path) -> Result<std::os::fd::OwnedFd> {
    sys::object::get(path).map_err(|source| Error::pin(Operation::Open, path, source))
}

/// Pins an object of any kind.
///
/// # Errors
/// When the path exists already, is not on a bpffs, or the caller may not write there.
pub fn obj_pin(object: std::os::fd::BorrowedFd<'_>, path: &std::path::Path) -> Result<()> {
    sys::object::pin(object, path).map_err(|source| Error::pin(Operation::Pin, path, source))
}
