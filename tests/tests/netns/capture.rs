//! What a network namespace receives.
use std::{fs::File, io::Read as _, os::fd::OwnedFd};

use anyhow::Result;
use harness::machine::netns::Netns;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Every frame that a network namespace receives from now on.
pub(crate) struct Capture(File);

impl Capture {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let socket: OwnedFd = netns.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        })??;
        Ok(Self(File::from(socket)))
    }

    /// The frames since the last call that have any of these bytes.
    pub(crate) fn with_any_of(&mut self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut frame, mut found) = ([0; 2048], Vec::new());
        while let Ok(len) = self.0.read(&mut frame) {
            let frame = &frame[..len];
            if words.iter().any(|word| frame.windows(word.len()).any(|window| window == *word)) {
                found.push(frame.to_vec());
            }
        }
        found
    }

    /// How many frames with these bytes have come since the last call.
    pub(crate) fn frames_with(&mut self, bytes: &[u8]) -> usize {
        self.with_any_of(&[bytes]).len()
    }
}
