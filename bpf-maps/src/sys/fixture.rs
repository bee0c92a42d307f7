//! What the tests need besides: tiny programs, and links to attach them.
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use zerocopy::FromZeros;

use super::{Command, address, call_for_fd, length, raw};

attr! { struct ProgLoadAttr {
    kind: u32, insn_count: u32, insns: u64, license: u64, log_level: u32, log_size: u32, log_buf: u64,
    kern_version: u32, flags: u32, name: [u8; 16], ifindex: u32, expected_attach_type: u32,
} }
attr! { struct LinkCreateAttr { prog_fd: u32, target_fd: u32, attach_type: u32, flags: u32 } }

/// `BPF_PROG_TYPE_SCHED_CLS`.
pub(crate) const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
pub(crate) const SOCK_ADDR: u32 = 18;
/// `BPF_CGROUP_INET4_CONNECT`.
pub(crate) const CONNECT4: u32 = 10;

/// `r0 = result; exit`.
pub(crate) fn program_returning(kind: u32, attach_type: u32, result: u8) -> io::Result<OwnedFd> {
    let insns = [0xb7_u64 | u64::from(result) << 32, 0x95];
    let license = *b"GPL\0";
    let mut attr = ProgLoadAttr::new_zeroed();
    (attr.kind, attr.expected_attach_type) = (kind, attach_type);
    (attr.insn_count, attr.insns, attr.license) = (length(insns.len())?, address(&insns), address(&license));
    attr.name[..12].copy_from_slice(b"returns_once");
    // SAFETY: instructions and licence outlive the call, which returns a descriptor.
    unsafe { call_for_fd(Command::ProgLoad, &mut attr) }
}

pub(crate) fn link(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { prog_fd: raw(program), target_fd: raw(target), attach_type, flags: 0 };
    // SAFETY: the attributes hold no pointer; the command returns a descriptor.
    unsafe { call_for_fd(Command::LinkCreate, &mut attr) }
}
