//! Processes of the host that the socket programs do not see, as the kernel itself: their packets to services are
//! translated on the uplink.
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    machine::process::Place,
    probe::{
        client::Probe,
        wire::{Outcome, Transport},
    },
    topology::{Options, Topology},
};

use crate::{
    cluster_ip::{PORT, TARGET_PORT, service},
    expect::{LONG, SHORT, TRANSPORTS, is_answered_by, target},
    host_ports::{any, filter_by_reverse_path, server},
};

/// A process of the host that the socket programs do not see, as the kernel itself.
fn unseen(topology: &Topology) -> Result<Probe> {
    let node = topology.node(0);
    let cgroup = topology.outside_cgroup();
    let place = Place { netns: node.netns(), cgroup, outlives: false, capabilities: None };
    Probe::start(topology.run(), "unseen", place)
}

#[test]
fn processes_that_the_socket_programs_do_not_see_use_services() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    filter_by_reverse_path(&topology)?;
    let process = unseen(&topology)?;
    let empty = service(&topology, "empty", "nobody")?;
    for (node, name) in ["near", "far"].into_iter().enumerate() {
        let pod = server(&topology, name, node)?;
        let services = service(&topology, name, name)?;
        topology.settle()?;
        for (to, empty) in services.into_iter().zip(empty) {
            for transport in [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp] {
                is_answered_by(pod.probe().name(), &process, target(transport, to))?;
            }
            for transport in TRANSPORTS {
                for to in [SocketAddr::new(to.ip(), PORT + 1), empty] {
                    assert_eq!(process.probe_one(target(transport, to), LONG)?, Outcome::Refused, "{to}");
                }
            }
        }
        // A port that nobody has at the backend: its error finds the socket.
        pod.probe().unlisten(Transport::Udp, TARGET_PORT)?;
        pod.probe().unlisten(Transport::Tcp, TARGET_PORT)?;
        for to in services {
            for transport in TRANSPORTS {
                eventually(format!("{transport:?} {to} is refused"), PATIENCE, || {
                    let outcome = process.probe_one(target(transport, to), SHORT)?;
                    ensure!(outcome == Outcome::Refused, "{outcome}");
                    Ok(())
                })?;
            }
        }
    }
    topology.close()
}

/// Sends back each datagram that comes within a second, until none does.
fn echo(socket: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        socket.send_to(&buffer[..length], from)?;
    }
    Ok(())
}

#[test]
fn datagrams_in_fragments_reach_services_and_come_back() -> Result<()> {
    const LENGTH: usize = 6_000;
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    filter_by_reverse_path(&topology)?;
    let node = topology.node(0);
    for (number, name) in ["near", "far"].into_iter().enumerate() {
        let pod = topology.add_pod(PodSpec::new("default", name).label("app", name).on(number))?;
        let services = service(&topology, name, name)?;
        topology.settle()?;
        for to in services {
            let server = pod.netns().run(|| UdpSocket::bind((pod.ip(to.is_ipv6()), TARGET_PORT)))??;
            server.set_read_timeout(Some(PATIENCE))?;
            // The sockets are of this process, which no socket program sees.
            let client = node.netns().run(|| {
                let socket = UdpSocket::bind((any(to), 0))?;
                socket.connect(to).map(|()| socket)
            })??;
            client.set_read_timeout(Some(LONG))?;
            std::thread::scope(|scope| {
                scope.spawn(|| echo(&server));
                let sent = vec![7; LENGTH];
                let result = eventually(format!("{LENGTH} bytes to {to} come back"), PATIENCE, || {
                    client.send(&sent)?;
                    let mut buffer = vec![0; 1 << 16];
                    let length = client.recv(&mut buffer).context("nothing comes back")?;
                    ensure!(buffer[..length] == sent, "{length} bytes");
                    Ok(())
                });
                // Ends the echo.
                server.set_read_timeout(Some(Duration::from_millis(1)))?;
                client.send(&[0])?;
                result
            })?;
        }
    }
    topology.close()
}

#[test]
fn a_stream_to_a_service_learns_of_a_smaller_mtu_on_its_way() -> Result<()> {
    const SIZE: usize = 1 << 20;
    kernel::require(kernel::NETNS);
    // The other node is behind a router.
    let topology = Topology::build(&Options { apart: true, ..Options::default() })?;
    topology.start_agents()?;
    filter_by_reverse_path(&topology)?;
    let pod = topology.add_pod(PodSpec::new("default", "far").label("app", "far").on(1))?;
    let services = service(&topology, "far", "far")?;
    topology.settle()?;
    let node = topology.node(0);
    for to in services {
        let listener = pod.netns().run(|| TcpListener::bind((pod.ip(to.is_ipv6()), TARGET_PORT)))??;
        let mut stream = node.netns().run(|| TcpStream::connect_timeout(&to, LONG))??;
        let (mut accepted, _) = listener.accept()?;
        let far = &topology.node(1).spec().name;
        topology.fabric().netns().ip(&format!("link set {far} mtu 1300\n"))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        accepted.set_read_timeout(Some(PATIENCE))?;
        let received = std::thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&vec![7; SIZE]));
            let mut all = Vec::new();
            accepted.read_to_end(&mut all).map(|_| all.len())
        })
        .with_context(|| format!("{to}: the stream stalls"))?;
        assert_eq!(received, SIZE, "{to}");
        topology.fabric().netns().ip(&format!("link set {far} mtu 1500\n"))?;
    }
    topology.close()
}
