//! Clients: one request, and what became of it.
use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt,
        setsockopt, socket, sockopt,
    },
};

use super::wire::{Answer, Outcome, Target, Transport, parse_answer, plain};

/// What a client says.
const REQUEST: &[u8] = b"who are you?\n";

/// A connection, TCP or UDP.
#[derive(Debug)]
pub enum Connection {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
    Unconnected { socket: UdpSocket, to: SocketAddr },
}

/// Opens a connection, makes one request and closes it.
#[must_use]
pub fn probe(target: Target, timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let answer = Connection::open(target, deadline).and_then(|mut connection| connection.exchange(deadline));
    outcome(answer)
}

/// Puts the result of a request into words that tests compare.
#[must_use]
pub fn outcome(answer: io::Result<Answer>) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Answered(answer),
        Err(error) => failure(&error),
    }
}

/// What an error of a socket says of the way to its peer.
pub(super) fn failure(error: &io::Error) -> Outcome {
    const UNREACHABLE: [i32; 4] = [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES, libc::EPERM];
    let kinds = [
        (ErrorKind::TimedOut, Outcome::TimedOut),
        (ErrorKind::WouldBlock, Outcome::TimedOut),
        (ErrorKind::ConnectionRefused, Outcome::Refused),
        (ErrorKind::ConnectionReset, Outcome::Reset),
        (ErrorKind::BrokenPipe, Outcome::Reset),
        (ErrorKind::UnexpectedEof, Outcome::Reset),
    ];
    if error.raw_os_error().is_some_and(|number| UNREACHABLE.contains(&number)) {
        return Outcome::Unreachable;
    }
    let known = kinds.into_iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| Outcome::Failed(error.to_string()), |(_, outcome)| outcome)
}

impl Connection {
    /// Opens a connection; for UDP this sends nothing.
    pub fn open(target: Target, deadline: Instant) -> io::Result<Self> {
        let from = target.from.unwrap_or_else(|| any_address(target.to));
        match target.transport {
            Transport::Tcp => Ok(Self::Tcp(BufReader::new(connect_tcp(target.to, target.from, deadline)?))),
            Transport::Udp => {
                let socket = match target.from {
                    Some(from) => shared_udp(from)?,
                    None => UdpSocket::bind(from)?,
                };
                socket.connect(target.to)?;
                Ok(Self::Udp(socket))
            }
            Transport::UnconnectedUdp => {
                Ok(Self::Unconnected { socket: UdpSocket::bind(from)?, to: target.to })
            }
        }
    }

    /// One request and its answer.
    pub fn exchange(&mut self, deadline: Instant) -> io::Result<Answer> {
        let mut buffer = [0; 2048];
        match self {
            Self::Tcp(stream) => {
                stream.get_mut().write_all(REQUEST)?;
                stream.get_mut().set_read_timeout(Some(left(deadline)?))?;
                let mut line = String::new();
                if stream.read_line(&mut line)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let from = stream.get_ref().peer_addr()?;
                parse_answer(&line, from).ok_or_else(|| invalid(line.as_bytes()))
            }
            Self::Udp(socket) => {
                socket.send(REQUEST)?;
                socket.set_read_timeout(Some(left(deadline)?))?;
                let length = socket.recv(&mut buffer)?;
                let from = socket.peer_addr()?;
                datagram(&buffer[..length], from)
            }
            Self::Unconnected { socket, to } => {
                socket.send_to(REQUEST, *to)?;
                socket.set_read_timeout(Some(left(deadline)?))?;
                let (length, from) = socket.recv_from(&mut buffer)?;
                datagram(&buffer[..length], from)
            }
        }
    }

    /// Sends what follows to another address: by a second `connect`, or by `sendto`.
    pub fn redirect(&mut self, other: SocketAddr) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Err(ErrorKind::Unsupported.into()),
            Self::Udp(socket) => socket.connect(other),
            Self::Unconnected { to, .. } => {
                *to = other;
                Ok(())
            }
        }
    }

    /// What `getpeername` says.
    pub fn peer_name(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.get_ref().peer_addr(),
            Self::Udp(socket) | Self::Unconnected { socket, .. } => socket.peer_addr(),
        }
    }
}

/// Connects UDP sockets, one after the other, and closes each at once.
pub(super) fn churn(to: SocketAddr, sockets: u32) -> io::Result<()> {
    (0..sockets).try_for_each(|_| UdpSocket::bind(any_address(to))?.connect(to))
}

/// Connects with a deadline, from a given address if wanted. A reset during the handshake stays a refusal.
pub(super) fn connect_tcp(
    to: SocketAddr,
    from: Option<SocketAddr>,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    if let Some(from) = from {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => {}
        Err(nix::errno::Errno::EINPROGRESS) => {
            let timeout = PollTimeout::try_from(left(deadline)?).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], timeout)? == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            match getsockopt(&fd, sockopt::SocketError)? {
                0 => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket on a port that others may have as well.
fn shared_udp(from: SocketAddr) -> io::Result<UdpSocket> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    Ok(fd.into())
}

pub(super) fn any_address(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// The time until the deadline; an error once it has passed.
pub(super) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn datagram(bytes: &[u8], from: SocketAddr) -> io::Result<Answer> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|line| parse_answer(line, plain(from)))
        .ok_or_else(|| invalid(bytes))
}

fn invalid(answer: &[u8]) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not an answer: {:?}", String::from_utf8_lossy(answer)))
}
