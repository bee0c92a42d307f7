//! What a socket sees of a service, whatever its kind.
use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, ensure};
use harness::{
    cluster::PodSpec,
    kernel,
    probe::wire::{Target, Transport},
    topology::{Pod, Topology},
};

use crate::{
    cluster_ip::{TARGET_PORT, service},
    expect::{LONG, TRANSPORTS, answer, target},
};

pub(crate) fn server(topology: &Topology, number: usize) -> Result<Arc<Pod>> {
    let spec = PodSpec::new("default", &format!("web-{number}")).label("app", "web").on(number % 2);
    let pod = topology.add_pod(spec)?;
    for transport in TRANSPORTS {
        pod.probe().listen(transport, TARGET_PORT)?;
    }
    Ok(pod)
}

/// A Service with as many pods behind it.
pub(crate) fn web(topology: &Topology, pods: usize) -> Result<(Vec<Arc<Pod>>, [SocketAddr; 2])> {
    let pods = (0..pods).map(|number| server(topology, number)).collect::<Result<_>>()?;
    let services = service(topology, "web", "web")?;
    topology.settle()?;
    Ok((pods, services))
}

/// The address as an IPv6 socket writes it.
pub(crate) fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(to) => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
        SocketAddr::V6(_) => to,
    }
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_and_sees_its_address() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, 2)?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let bystander = topology.bystander(&client)?;
    for process in [topology.node(0).host(), client.probe(), &bystander] {
        for transport in [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp] {
            for to in frontends {
                let answer = answer(process, target(transport, mapped(to)))?;
                let from = SocketAddr::new(answer.from.ip().to_canonical(), answer.from.port());
                assert_eq!(from, to, "{} {transport:?}", process.name());
            }
        }
    }
    topology.close()
}

#[test]
fn an_unconnected_udp_socket_of_the_host_keeps_its_backend_when_the_set_grows() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let (_, frontends) = web(&topology, 4)?;
    let host = topology.node(0).host();
    let mut sockets = Vec::new();
    for to in frontends {
        for to in [to, mapped(to)] {
            for _ in 0..20 {
                let target = Target { transport: Transport::UnconnectedUdp, to, from: None };
                let (socket, outcome) = host.open(target, LONG)?;
                let server = outcome.by().map(str::to_owned);
                ensure!(server.is_some(), "{to}: {outcome}");
                sockets.push((socket, server));
            }
        }
    }
    let _fifth = server(&topology, 4)?;
    topology.settle()?;
    let mut moved = 0;
    for (socket, server) in &sockets {
        moved += usize::from(socket.exchange(LONG)?.by() != server.as_deref());
    }
    assert_eq!(moved, 0, "of {} sockets", sockets.len());
    drop(sockets);
    topology.close()
}
