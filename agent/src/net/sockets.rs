//! Connected sockets of this host, by `sock_diag`: found by their peer, and destroyed when the peer is gone.
//!
//! Blocking. Sees the sockets of the agent's own network namespace only: pods are balanced per packet.
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::raw::{NLM_F_ACK, NLM_F_DUMP, RawSocket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// `struct inet_diag_sockid`. Ports and addresses as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SocketId {
    local_port: [u8; 2],
    remote_port: [u8; 2],
    local: [u8; 16],
    remote: [u8; 16],
    ifindex: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DiagRequest {
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

/// The first part of `struct inet_diag_msg`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DiagMessage {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
}

/// States of the kernel's sockets, `TCP_*`: connected, for UDP as well, and half-closed by either end.
const ESTABLISHED: u32 = 1;
const FIN_WAIT_1: u32 = 4;
const FIN_WAIT_2: u32 = 5;
const CLOSE_WAIT: u32 = 8;
const CONNECTED: u32 = 1 << ESTABLISHED | 1 << FIN_WAIT_1 | 1 << FIN_WAIT_2 | 1 << CLOSE_WAIT;

/// A connected socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    pub proto: u8,
    pub cookie: u64,
    pub local: SocketAddr,
    /// What the socket is connected to; for a service, the backend that was chosen.
    pub remote: SocketAddr,
    family: u8,
    id: SocketId,
}

/// Why sockets could not be found or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    #[error("cannot list the connected sockets of this host")]
    List(#[source] io::Error),
    #[error("cannot destroy the socket {local} that is connected to {remote}, which is gone")]
    Destroy {
        local: SocketAddr,
        remote: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// What was done.
#[derive(Debug, Default)]
pub struct Destroyed {
    pub count: usize,
    pub errors: Vec<SocketsError>,
}

/// The connected sockets of a protocol.
///
/// # Errors
/// If the sockets cannot be listed.
pub fn connected(proto: u8) -> Result<Vec<Connected>, SocketsError> {
    let sockets = SockDiag::open().and_then(|mut diag| diag.connected(proto));
    sockets.map_err(SocketsError::List)
}

/// Destroys sockets, unless they are connected elsewhere by now: their owners get `ECONNABORTED`, and may connect again if
/// the protocol is UDP.
///
/// # Errors
/// If the kernel gives no socket. One that cannot be destroyed is in the result; the rest is done.
pub fn destroy(sockets: &[Connected]) -> Result<Destroyed, SocketsError> {
    let mut diag = SockDiag::open().map_err(SocketsError::List)?;
    let mut destroyed = Destroyed::default();
    for socket in sockets {
        let Connected { local, remote, .. } = *socket;
        match diag.destroy(socket) {
            Ok(()) => destroyed.count += 1,
            // Closed or connected elsewhere in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(source) => destroyed.errors.push(SocketsError::Destroy { local, remote, source }),
        }
    }
    Ok(destroyed)
}

struct SockDiag(RawSocket);

impl SockDiag {
    fn open() -> io::Result<Self> {
        RawSocket::open(NETLINK_SOCK_DIAG).map(Self)
    }

    fn connected(&mut self, proto: u8) -> io::Result<Vec<Connected>> {
        let mut sockets = Vec::new();
        for family in [family_number(libc::AF_INET), family_number(libc::AF_INET6)] {
            let request =
                DiagRequest { family, protocol: proto, states: CONNECTED, ..DiagRequest::default() };
            let payloads = self.0.exchange(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request.as_bytes())?;
            sockets.extend(payloads.iter().filter_map(|payload| socket_of(proto, payload)));
        }
        Ok(sockets)
    }

    fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        let request = DiagRequest {
            family: socket.family,
            protocol: socket.proto,
            states: u32::MAX,
            id: socket.id,
            ..DiagRequest::default()
        };
        self.0.exchange(SOCK_DESTROY, NLM_F_ACK, request.as_bytes()).map(drop)
    }
}

fn family_number(family: libc::c_int) -> u8 {
    u8::try_from(family).expect("address families are small numbers")
}

fn socket_of(proto: u8, payload: &[u8]) -> Option<Connected> {
    let (message, _) = DiagMessage::read_from_prefix(payload).ok()?;
    let id = message.id;
    let address = |bytes: [u8; 16]| {
        if i32::from(message.family) == libc::AF_INET {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            // Sockets of both families show IPv4 peers as mapped addresses.
            Ipv6Addr::from(bytes).to_canonical()
        }
    };
    let local = SocketAddr::new(address(id.local), u16::from_be_bytes(id.local_port));
    let remote = SocketAddr::new(address(id.remote), u16::from_be_bytes(id.remote_port));
    let cookie = u64::from(id.cookie[0]) | (u64::from(id.cookie[1]) << 32);
    Some(Connected { proto, cookie, local, remote, family: message.family, id })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use dataplane_common::net::proto;

    use super::*;

    fn client(local: &str, remote: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(local).unwrap();
        socket.connect(remote).unwrap();
        socket
    }

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!((size_of::<SocketId>(), size_of::<DiagRequest>(), size_of::<DiagMessage>()), (48, 56, 52));
        assert_eq!(DiagRequest::default().as_bytes(), [0; 56]);
    }

    #[test]
    fn connected_sockets_of_both_families_are_found_by_their_peer() {
        for (bind, server) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
        {
            let server = UdpSocket::bind(server).unwrap();
            let remote = server.local_addr().unwrap();
            let mapped = match remote.ip() {
                IpAddr::V4(v4) if bind.starts_with('[') => {
                    SocketAddr::new(v4.to_ipv6_mapped().into(), remote.port())
                }
                IpAddr::V4(_) | IpAddr::V6(_) => remote,
            };
            let client = client(bind, mapped);
            let sockets = super::connected(proto::UDP).unwrap();
            let found: Vec<_> = sockets.iter().filter(|socket| socket.remote == remote).collect();
            assert_eq!(found.len(), 1, "{bind} to {remote}: {sockets:?}");
            assert_eq!(found[0].local.port(), client.local_addr().unwrap().port());
            assert_ne!(found[0].cookie, 0);
        }
    }
}
