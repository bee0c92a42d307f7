//! Netlink protocols that no crate of ours speaks. Blocking.
use std::{io, ops::ControlFlow};

use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_DUMP: u16 = 0x300;

/// No message of the kernel is larger.
const MOST_BYTES: usize = 64 << 10;

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// A connection to one part of the kernel.
pub(super) struct RawSocket {
    socket: Socket,
    sequence: u32,
}

impl RawSocket {
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and collects what is behind the headers of the replies.
    ///
    /// # Errors
    /// What the kernel says; `Interrupted` if the table changed while it was listed.
    pub(super) fn exchange(&mut self, kind: u16, flags: u16, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut payloads = Vec::new();
        self.visit(kind, flags, request, |payload| {
            payloads.push(payload.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(payloads)
    }

    /// The same, one reply after the other. After a break the kernel goes on listing to this socket: it is of no use for
    /// another request.
    pub(super) fn visit(
        &mut self,
        kind: u16,
        flags: u16,
        request: &[u8],
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(size_of::<Header>() + request.len()).map_err(io::Error::other)?;
        let header = Header { length, kind, flags: NLM_F_REQUEST | flags, sequence: self.sequence, port: 0 };
        self.socket.send(&[header.as_bytes(), request].concat(), 0)?;
        // The kernel fills what it is given, up to half of this: the fewer the parts of a list, the less it looks for its place.
        let mut datagram = Vec::with_capacity(MOST_BYTES);
        loop {
            datagram.clear();
            if self.socket.recv(&mut datagram, libc::MSG_TRUNC)? > datagram.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut rest = datagram.as_slice();
            while let Ok((header, _)) = Header::read_from_prefix(rest) {
                let length = usize::try_from(header.length).map_err(io::Error::other)?;
                let message = rest.get(size_of::<Header>()..length).ok_or(io::ErrorKind::InvalidData)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if header.sequence != self.sequence {
                    continue;
                }
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match header.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let (code, _) =
                            i32::read_from_prefix(message).map_err(|_| io::ErrorKind::InvalidData)?;
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => {
                        if each(message).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
