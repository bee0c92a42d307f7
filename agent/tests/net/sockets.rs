use std::{
    io::{ErrorKind, Read as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use agent::net::sockets::{self, Connected, Destroyed};
use dataplane_common::net::proto;

use crate::namespace::{inside, ip};

fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("an address");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
    socket
}

fn connected(bind: &str, to: SocketAddr) -> UdpSocket {
    let socket = bound(bind);
    socket.connect(to).expect("connecting");
    socket
}

/// Destroys the connected sockets that match.
fn destroy(proto: u8, matches: impl Fn(&Connected) -> bool) -> Destroyed {
    let sockets = sockets::connected(proto).expect("listing");
    sockets::destroy(&sockets.into_iter().filter(matches).collect::<Vec<_>>()).expect("a netlink socket")
}

#[test]
fn only_sockets_connected_to_the_dead_backend_are_aborted_and_can_connect_again() {
    inside(|_| async {
        ip("link set lo up");
        for (any, loopback) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0")] {
            let (dead, alive) = (bound(loopback), bound(loopback));
            let (dead_at, alive_at) = (dead.local_addr().unwrap(), alive.local_addr().unwrap());
            let (to_dead, to_alive) = (connected(any, dead_at), connected(any, alive_at));
            let unconnected = bound(any);

            let destroyed = destroy(proto::UDP, |socket| socket.remote == dead_at);
            assert_eq!((destroyed.count, destroyed.errors.len()), (1, 0), "{destroyed:?}");

            let error = to_dead.recv(&mut [0; 8]).expect_err("the socket was not aborted");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            to_dead.connect(alive_at).expect("connecting again");
            to_dead.send(b"again").expect("sending");
            assert_eq!(alive.recv(&mut [0; 8]).expect("the datagram"), 5);
            to_alive.send(b"still").expect("sending");
            assert_eq!(alive.recv(&mut [0; 8]).expect("the datagram"), 5);
            unconnected.send_to(b"too", alive_at).expect("sending");
            assert_eq!(alive.recv(&mut [0; 8]).expect("the datagram"), 3);
        }
    });
}

#[test]
fn sockets_of_both_families_are_found_by_their_ipv4_peer_and_by_their_cookie() {
    inside(|_| async {
        ip("link set lo up");
        let server = bound("127.0.0.1:0");
        let remote = server.local_addr().unwrap();
        let SocketAddr::V4(v4) = remote else { panic!("not IPv4") };
        let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
        let clients = [connected("0.0.0.0:0", remote), connected("[::]:0", mapped)];
        let sockets = sockets::connected(proto::UDP).expect("listing");
        let found = sockets.iter().filter(|socket| socket.remote == remote);
        let cookies: Vec<u64> = found.map(|socket| socket.cookie).collect();
        assert_eq!(cookies.len(), clients.len());
        let destroyed = destroy(proto::UDP, |socket| cookies.contains(&socket.cookie));
        assert_eq!(destroyed.count, clients.len());
    });
}

#[test]
fn a_tcp_connection_is_aborted_at_both_ends_and_listeners_stay() {
    inside(|_| async {
        ip("link set lo up");
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(loopback).expect("an address");
            let to = server.local_addr().unwrap();
            let mut clients = [TcpStream::connect(to).unwrap(), TcpStream::connect(to).unwrap()];
            let dead = clients[0].local_addr().unwrap();
            let mut accepted = server.accept().unwrap().0;
            // One end of a half-closed connection may wait for ever.
            clients[1].shutdown(Shutdown::Write).unwrap();
            let half_closed = clients[1].local_addr().unwrap();
            let destroyed = destroy(proto::TCP, |socket| {
                socket.remote == to && [dead, half_closed].contains(&socket.local)
            });
            assert_eq!((destroyed.count, destroyed.errors.len()), (2, 0), "{destroyed:?}");
            for client in &mut clients {
                let error = client.read(&mut [0; 8]).expect_err("the connection was not aborted");
                assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            }
            let error = accepted.read(&mut [0; 8]).expect_err("the server was not told");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            TcpStream::connect(to).expect("the listener is still there");
        }
    });
}
