//! Servers that answer every line or datagram with their name and the client's address.
use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, IoSlice, IoSliceMut, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
    },
};

use super::wire::{Transport, answer_line, plain};

/// How often a server looks whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(20);

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    served: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
}

impl Server {
    /// Listens on every address of both families. The socket is bound when this returns.
    pub fn start(name: &str, transport: Transport, port: u16) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let name: Arc<str> = name.into();
        match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(("::", port))?;
                listener.set_nonblocking(true)?;
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || accept(&listener, &name, &shared));
            }
            Transport::Udp | Transport::UnconnectedUdp => {
                let socket = UdpSocket::bind(("::", port))?;
                socket.set_read_timeout(Some(LOOK_UP))?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer_datagrams(&socket, &name, &shared));
            }
        }
        Ok(Self { shared })
    }

    /// Requests answered so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in &*connections {
            // The peer may have closed it.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, name: &Arc<str>, shared: &Arc<Shared>) {
    while !shared.stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                let (name, shared) = (Arc::clone(name), Arc::clone(shared));
                std::thread::spawn(move || {
                    // Ends with the connection, for whatever reason that ends.
                    let _ = answer_lines(&stream, peer, &name, &shared);
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_input(listener),
            Err(error) => eprintln!("{name}: accept: {error}"),
        }
    }
}

/// Sleeps until a connection waits, but not for long.
fn wait_for_input(listener: &TcpListener) {
    let timeout = PollTimeout::try_from(LOOK_UP).unwrap_or(PollTimeout::ZERO);
    // Nothing to do about an error but to look again.
    let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout);
}

fn answer_lines(stream: &TcpStream, peer: SocketAddr, name: &str, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    {
        let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(stream.try_clone()?);
    }
    let answer = answer_line(name, plain(peer));
    let local = stream.local_addr()?;
    let mut lines = BufReader::new(stream).lines();
    let mut writer = stream;
    let result = lines.try_for_each(|line| {
        line?;
        shared.served.fetch_add(1, Ordering::Relaxed);
        writer.write_all(answer.as_bytes())
    });
    let mut connections = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
    connections.retain(|other| {
        other.peer_addr().is_ok_and(|other_peer| other_peer != peer)
            || other.local_addr().is_ok_and(|other_local| other_local != local)
    });
    result
}

fn answer_datagrams(socket: &UdpSocket, name: &str, shared: &Shared) {
    while !shared.stopped.load(Ordering::Relaxed) {
        // Time-outs, and ICMP errors about clients that are gone.
        let Ok(Some((peer, asked))) = receive(socket) else { continue };
        shared.served.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer(socket, answer_line(name, plain(peer)).as_bytes(), peer, asked) {
            eprintln!("{name}: answer to {peer}: {error}");
        }
    }
}

/// Takes a datagram: who sent it, and to which address of this host.
fn receive(socket: &UdpSocket) -> nix::Result<Option<(SocketAddr, libc::in6_pktinfo)>> {
    let mut buffer = [0; 2048];
    let mut space = cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let asked = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::Ipv6PacketInfo(info) = control { Some(info) } else { None }
    });
    let peer = message.address.map(|peer| SocketAddr::V6(peer.into()));
    Ok(peer.zip(asked))
}

/// Answers from the address that was asked: a host has several.
fn answer(socket: &UdpSocket, line: &[u8], peer: SocketAddr, asked: libc::in6_pktinfo) -> nix::Result<usize> {
    let SocketAddr::V6(peer) = peer else { return Err(Errno::EAFNOSUPPORT) };
    let from = libc::in6_pktinfo { ipi6_ifindex: 0, ..asked };
    let control = [ControlMessage::Ipv6PacketInfo(&from)];
    let flags = MsgFlags::empty();
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(line)], &control, flags, Some(&SockaddrIn6::from(peer)))
}
