//! Marking flows in the maps of the programs. The programs do it: they change single bytes of an entry in place, and a whole
//! entry that is written back would undo what they have noted since it was read.
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use agent_core::entry::Backend;
use bpf_maps::Error;

use super::flow::Family;

/// What the program returns when it has marked the flow (`TC_ACT_OK`).
const MARKED: u32 = 0;

/// Room for key and backend of either family. A test run wants an Ethernet frame, which is shorter.
const FRAME: usize = 64;

/// Marks flows whose service has lost their backend.
#[derive(Debug)]
pub(crate) struct Marker {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Marker {
    pub(crate) fn new([v4, v6]: [BorrowedFd<'_>; 2]) -> io::Result<Self> {
        Ok(Self { v4: v4.try_clone_to_owned()?, v6: v6.try_clone_to_owned()? })
    }

    /// Marks the flow of this key while it has this backend. `false` when it has ended or has another one.
    pub(super) fn mark(&self, family: Family, key: &[u8], backend: SocketAddr) -> Result<bool, Error> {
        let program = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let backend = Backend { addr: backend.ip(), port: backend.port() };
        let mut frame = [key, &backend.to_bytes()].concat();
        frame.resize(FRAME, 0);
        Ok(bpf_maps::program::test_run(program.as_fd(), &frame, &[], 1)?.retval == MARKED)
    }
}
