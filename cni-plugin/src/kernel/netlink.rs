//! A synchronous rtnetlink socket.
use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::netns::Netns;

/// Other programs change the tables while they are dumped; that many dumps are thrown away before giving up.
const DUMP_ATTEMPTS: usize = 10;

/// Length of the header that precedes the attributes of an error.
const HEADER_LEN: usize = 16;

/// Attribute of an error that holds the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket in one network namespace: it stays there, wherever the process goes.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the namespace the process is in.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Filters of dumps are honoured only under strict checks.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a socket in another namespace.
    pub(crate) fn open_in(netns: &Netns) -> io::Result<Self> {
        netns.inside(Self::open)?
    }

    /// Asks for a change, or for one object.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)?.ok_or_else(interrupted)
    }

    /// Asks for all objects of a kind: a consistent list or an error.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)? {
                return Ok(replies);
            }
        }
        Err(interrupted())
    }

    /// Sends a message and collects the replies. `None`: they are not a consistent list.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut replies = Vec::new();
        let mut consistent = true;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= HEADER_LEN {
                let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let length =
                    usize::try_from(reply.header.length).map_err(io::Error::other)?.next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // What is left of an exchange that failed half-way.
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= reply.header.flags & NLM_F_DUMP_INTR == 0;
                if let NetlinkPayload::InnerMessage(message) = reply.payload {
                    replies.push(message);
                } else if let NetlinkPayload::Error(error) = reply.payload {
                    return if error.code.is_none() {
                        Ok(consistent.then_some(replies))
                    } else {
                        Err(refusal(&error))
                    };
                } else if let NetlinkPayload::Done(done) = reply.payload {
                    return match done.code {
                        0 => Ok(consistent.then_some(replies)),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
            }
        }
    }
}

fn interrupted() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "the kernel's tables kept changing while they were read")
}

/// The error with the kernel's explanation, if it gave one.
fn refusal(error: &ErrorMessage) -> io::Error {
    let source = error.to_io();
    let attributes = error.header.get(HEADER_LEN..).unwrap_or_default();
    let explanation = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
    match explanation {
        Some(explanation) => io::Error::new(source.kind(), Refusal { explanation, source }),
        None => source,
    }
}

#[derive(Debug)]
struct Refusal {
    explanation: String,
    source: io::Error,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.source, self.explanation)
    }
}

impl std::error::Error for Refusal {}

/// The error number, also of an error that carries an explanation.
pub(super) fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| error.get_ref()?.downcast_ref::<Refusal>()?.source.raw_os_error())
}
