use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use agent::net::sockets::destroy_udp;

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

#[test]
fn only_sockets_connected_to_the_dead_backend_are_aborted_and_can_connect_again() {
    inside(|_| async {
        ip("link set lo up");
        for (any, loopback) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0")] {
            let (dead, alive) = (bound(loopback), bound(loopback));
            let (dead_at, alive_at) = (dead.local_addr().unwrap(), alive.local_addr().unwrap());
            let (to_dead, to_alive) = (connected(any, dead_at), connected(any, alive_at));
            let unconnected = bound(any);

            let destroyed = destroy_udp(|socket| socket.remote == dead_at).expect("listing");
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
        let mut cookies = Vec::new();
        let none = destroy_udp(|socket| {
            cookies.extend((socket.remote == remote).then_some(socket.cookie));
            false
        });
        assert_eq!(none.expect("listing").count, 0);
        assert_eq!(cookies.len(), clients.len());
        let destroyed = destroy_udp(|socket| cookies.contains(&socket.cookie)).expect("listing");
        assert_eq!(destroyed.count, clients.len());
    });
}
