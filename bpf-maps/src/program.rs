//! Programs: what the kernel knows of them, and running one on a packet.
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::{
    Error, Operation, Result,
    map::text,
    sys::{
        self,
        object::{RawProgramInfo, TestRun},
    },
};

/// What the kernel knows of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    pub id: u32,
    /// At most 15 characters of it.
    pub name: String,
    /// Instructions that the verifier walked through.
    pub verified_insns: u32,
    /// Counted only while `kernel.bpf_stats_enabled` is 1.
    pub run_count: u64,
    pub run_time_ns: u64,
}

/// Opens a program by its id.
///
/// # Errors
/// When there is none, or the caller lacks `CAP_SYS_ADMIN`.
pub fn open(id: u32) -> Result<OwnedFd> {
    sys::object::prog_by_id(id).map_err(|source| Error::Syscall {
        operation: Operation::OpenById,
        object: format!("program {id}"),
        source,
    })
}

/// Inspects a program.
///
/// # Errors
/// When the descriptor is not a program.
pub fn info(program: BorrowedFd<'_>) -> Result<ProgramInfo> {
    let raw: RawProgramInfo = sys::object::info(program).map_err(|source| Error::Syscall {
        operation: Operation::Info,
        object: "a program".to_owned(),
        source,
    })?;
    Ok(ProgramInfo {
        id: raw.id,
        name: text(&raw.name),
        verified_insns: raw.verified_insns,
        run_count: raw.run_count,
        run_time_ns: raw.run_time_ns,
    })
}

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub retval: u32,
    pub data: Vec<u8>,
    pub ctx: Vec<u8>,
    /// Of one run, in nanoseconds.
    pub duration_ns: u32,
}

/// How much longer a packet may become in a program.
const HEADROOM: usize = 256;

/// Runs a program `repeat` times (at least once) on one packet; each run gets what the run before made of it.
/// `ctx` is empty or a `struct __sk_buff` (`struct xdp_md` for XDP) as bytes.
///
/// # Errors
/// When the program's type has no test run, the packet is shorter than an Ethernet header, or a field of `ctx` is
/// set that the kernel does not take.
pub fn test_run(program: BorrowedFd<'_>, data: &[u8], ctx: &[u8], repeat: u32) -> Result<Run> {
    let mut data_out = vec![0; data.len() + HEADROOM];
    let mut ctx_out = vec![0; ctx.len()];
    let mut run =
        TestRun { data_in: data, data_out: &mut data_out, ctx_in: ctx, ctx_out: &mut ctx_out, repeat };
    let (retval, data_len, ctx_len, duration_ns) =
        sys::object::test_run(program, &mut run).map_err(|source| Error::Syscall {
            operation: Operation::TestRun,
            object: "a program".to_owned(),
            source,
        })?;
    data_out.truncate(data_len);
    ctx_out.truncate(ctx_len);
    Ok(Run { retval, data: data_out, ctx: ctx_out, duration_ns })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::fixture::{SCHED_CLS, program_returning};

    #[test]
    fn a_program_is_inspected_and_found_by_its_id() {
        let program = program_returning(SCHED_CLS, 0, 2).unwrap();
        let known = info(program.as_fd()).unwrap();
        assert_eq!((known.name.as_str(), known.verified_insns), ("returns_once", 2));
        let again = open(known.id).unwrap();
        assert_eq!(info(again.as_fd()).unwrap().id, known.id);
        assert!(open(u32::MAX).unwrap_err().is_missing());
    }

    #[test]
    fn a_test_run_returns_the_verdict_and_the_packet() {
        let program = program_returning(SCHED_CLS, 0, 2).unwrap();
        let packet = [0x5a; 64];
        let run = test_run(program.as_fd(), &packet, &[], 1).unwrap();
        assert_eq!((run.retval, run.data.as_slice()), (2, packet.as_slice()));
        let mut ctx = [0; 192];
        // `mark`, the third word of `struct __sk_buff`.
        ctx[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        let run = test_run(program.as_fd(), &packet, &ctx, 3).unwrap();
        assert_eq!((run.ctx.len(), &run.ctx[8..12]), (192, 7_u32.to_ne_bytes().as_slice()));
        let error = test_run(program.as_fd(), &[0; 4], &[], 1).unwrap_err();
        assert!(error.to_string().starts_with("cannot test-run a program: "), "{error}");
    }
}
