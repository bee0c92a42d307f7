//! Commands on pins, links and programs.
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use zerocopy::{FromBytes, IntoBytes};

use super::{Command, address, address_mut, c_path, call, call_for_fd, length, raw};

attr! { struct ObjectAttr { path: u64, fd: u32, file_flags: u32 } }
attr! { struct InfoAttr { fd: u32, len: u32, info: u64 } }
attr! { struct IdAttr { id: u32, next_id: u32, open_flags: u32 } }
attr! { struct LinkUpdateAttr { link_fd: u32, new_prog_fd: u32, flags: u32, old_prog_fd: u32 } }
attr! { struct TestRunAttr {
    prog_fd: u32, retval: u32, data_size_in: u32, data_size_out: u32, data_in: u64, data_out: u64,
    repeat: u32, duration: u32, ctx_size_in: u32, ctx_size_out: u32, ctx_in: u64, ctx_out: u64,
    flags: u32, cpu: u32,
} }
attr! {
    /// `struct bpf_map_info`, as far as it is read.
    pub(crate) struct RawMapInfo {
        kind: u32, id: u32, key_size: u32, value_size: u32, max_entries: u32, flags: u32, name: [u8; 16],
    }
}
attr! {
    /// `struct bpf_link_info`; the meaning of `details` depends on the kind.
    pub(crate) struct RawLinkInfo { kind: u32, id: u32, prog_id: u32, reserved: u32, details: [u32; 4] }
}
attr! {
    /// `struct bpf_prog_info`, up to the number of verified instructions (v5.16).
    pub(crate) struct RawProgramInfo {
        kind: u32, id: u32, tag: [u8; 8], jited_len: u32, xlated_len: u32, jited_insns: u64, xlated_insns: u64,
        load_time: u64, created_by: u32, map_count: u32, map_ids: u64, name: [u8; 16],
        /// Interface, licence flag, network namespace, symbols, BTF and line tables: 112 bytes that nobody reads.
        unread: [u64; 14],
        run_time_ns: u64, run_count: u64, recursion_misses: u64, verified_insns: u32, attach_btf_obj_id: u32,
    }
}
// Offsets in the kernel's structure, which only ever grows.
const _: () = assert!(std::mem::offset_of!(RawProgramInfo, run_time_ns) == 192);
const _: () = assert!(std::mem::offset_of!(RawProgramInfo, verified_insns) == 216);

pub(crate) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, file_flags: 0 };
    // SAFETY: the path is a C string that outlives the call; the command returns a descriptor.
    unsafe { call_for_fd(Command::ObjGet, &mut attr) }
}

pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: raw(object), file_flags: 0 };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { call(Command::ObjPin, &mut attr) }.map(drop)
}

/// Reads what the kernel knows of an object into `T`. An older kernel with a shorter structure leaves the rest 0.
pub(crate) fn info<T: FromBytes + IntoBytes>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::new_zeroed();
    let len = length(size_of::<T>())?;
    let mut attr = InfoAttr { fd: raw(object), len, info: address_mut(info.as_mut_bytes()) };
    // SAFETY: the kernel writes at most `len` bytes, and `T` is valid for every bit pattern. The structures are
    // zeroed, so the kernel takes none of their fields for a pointer to fill.
    unsafe { call(Command::ObjInfo, &mut attr) }?;
    Ok(info)
}

pub(crate) fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: the attributes hold no pointer; the command returns a descriptor.
    unsafe { call_for_fd(Command::ProgFdById, &mut attr) }
}

pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    // SAFETY: the attributes hold no pointer.
    unsafe { call(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// What a test run reads and writes.
pub(crate) struct TestRun<'a> {
    pub(crate) data_in: &'a [u8],
    pub(crate) data_out: &'a mut [u8],
    pub(crate) ctx_in: &'a [u8],
    pub(crate) ctx_out: &'a mut [u8],
    pub(crate) repeat: u32,
}

/// Return value, length of the packet, length of the context, duration of one run in nanoseconds.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    run: &mut TestRun<'_>,
) -> io::Result<(u32, usize, usize, u32)> {
    let mut attr = TestRunAttr {
        prog_fd: raw(program),
        retval: 0,
        data_size_in: length(run.data_in.len())?,
        data_size_out: length(run.data_out.len())?,
        data_in: address(run.data_in),
        data_out: address_mut(run.data_out),
        repeat: run.repeat,
        duration: 0,
        ctx_size_in: length(run.ctx_in.len())?,
        ctx_size_out: length(run.ctx_out.len())?,
        ctx_in: if run.ctx_in.is_empty() { 0 } else { address(run.ctx_in) },
        ctx_out: if run.ctx_out.is_empty() { 0 } else { address_mut(run.ctx_out) },
        flags: 0,
        cpu: 0,
    };
    // SAFETY: each buffer is passed with its own length, which bounds what the kernel reads or writes.
    unsafe { call(Command::ProgTestRun, &mut attr) }?;
    Ok((attr.retval, attr.data_size_out as usize, attr.ctx_size_out as usize, attr.duration))
}

/// `BPF_FS_MAGIC`: what `statfs` says of a bpffs.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: an all-zero `statfs` is a valid value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `found` has room for the answer.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type.cast_unsigned() & 0xffff_ffff == BPFFS_MAGIC)
}

attr! {
    struct ProgQuery {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
}

/// `BPF_MPROG_MAX`: no hook holds more programs.
const PROGRAMS_MAX: usize = 64;

/// Ids of the programs on a tcx hook, in the order in which they run.
pub(crate) fn tcx_programs(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut attr = ProgQuery {
        target: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len()).map_err(io::Error::other)?,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel writes at most `count` ids, which `ids` has room for.
    unsafe { call(Command::ProgQuery, &mut attr) }?;
    ids.truncate(usize::try_from(attr.count).map_err(io::Error::other)?);
    Ok(ids)
}

attr! {
    struct LinkDetach { link: u32 }
}

/// Takes the program of a link off its hook; the link stays, attached to nothing.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetach { link: raw(link) };
    // SAFETY: there is no pointer in it.
    unsafe { call(Command::LinkDetach, &mut attr) }.map(drop)
}
