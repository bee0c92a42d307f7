//! Sockets of the host that share a port: their packets to services are translated on the uplink.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
};

use anyhow::{Result, bail, ensure};
use bpf_maps::{MillraceDir, link};
use dataplane_common::{
    maps::MapId,
    verdict::{Hook, Outcome as Counted},
};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::{
        client::{HeldConnection, Probe},
        wire::{Outcome, Target, Transport},
    },
    topology::{Pod, Topology},
};
use serde_json::json;

use crate::{
    cluster_ip::{TARGET_PORT, service},
    expect::{LONG, SHORT, TRANSPORTS, is_answered_by, is_silent, target},
    firewall::start_firewall,
    objects::policy,
    sockets::mapped,
};

/// A firewall that drops what belongs to nothing that it knows, and all that is forwarded.
const FIREWALL: &str = "\
    chain input { type filter hook input priority 0; ct state invalid drop; }\n\
    chain output { type filter hook output priority 0; ct state invalid drop; }\n\
    chain forward { type filter hook forward priority 0; policy drop; }";

/// A pod `NAME` on a node that answers, with the label `app: NAME`.
pub(crate) fn server(topology: &Topology, name: &str, node: usize) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(PodSpec::new("default", name).label("app", name).on(node))?;
    for transport in TRANSPORTS {
        pod.probe().listen(transport, TARGET_PORT)?;
    }
    Ok(pod)
}

/// Hosts that take an answer only by the interface that leads to who sent it.
pub(crate) fn filter_by_reverse_path(topology: &Topology) -> Result<()> {
    for node in topology.nodes() {
        let switches = ["all", "default", "eth0"].map(|name| format!("ipv4/conf/{name}/rp_filter"));
        node.netns().sysctl(&switches.each_ref().map(|switch| (switch.as_str(), "1")))?;
    }
    Ok(())
}

pub(crate) fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The host's packets to services are translated on its uplink, or no longer.
fn host_paths_are(topology: &Topology, expected: bool) -> Result<()> {
    eventually(format!("there are paths: {expected}"), PATIENCE, || {
        let paths = topology.node(0).maps().entries(MapId::HOST_PATHS)?;
        let there = paths.iter().all(|(_, path)| path[..4] != [0; 4]);
        let none = paths.iter().all(|(_, path)| path[..4] == [0; 4]);
        ensure!(if expected { there } else { none }, "{paths:?}");
        Ok(())
    })
}

/// Opens sockets of one port, each to one of these; each is answered by the pod and sees whom it asked for.
fn open_all<'a>(
    process: &'a Probe,
    transport: Transport,
    from: SocketAddr,
    to: &[SocketAddr],
    server: &str,
) -> Result<Vec<(HeldConnection<'a>, SocketAddr)>> {
    let mut held = Vec::new();
    for to in to {
        let (connection, outcome) = process.open(target(transport, *to).from(from), LONG)?;
        ensure!(outcome.by() == Some(server), "{transport:?} {from} to {to}: {outcome}");
        ensure!(connection.peer_name()? == *to, "{transport:?} {to} is shown as another");
        held.push((connection, *to));
    }
    Ok(held)
}

fn all_go_on(held: &[(HeldConnection<'_>, SocketAddr)], server: &str) -> Result<()> {
    for _ in 0..5 {
        for (connection, to) in held {
            let outcome = connection.exchange(LONG)?;
            ensure!(outcome.by() == Some(server), "{to}: {outcome}");
        }
    }
    Ok(())
}

#[test]
fn sockets_of_one_port_use_services_with_one_backend_and_the_backend_itself() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    filter_by_reverse_path(&topology)?;
    start_firewall(topology.node(0), FIREWALL)?;
    let mut port = 41_000;
    for (node, name) in ["near", "far"].into_iter().enumerate() {
        let pod = server(&topology, name, node)?;
        let services: Vec<_> =
            (0..3).map(|n| service(&topology, &format!("{name}-{n}"), name)).collect::<Result<_>>()?;
        topology.settle()?;
        host_paths_are(&topology, true)?;
        let host = topology.node(0).host();
        for transport in TRANSPORTS {
            for is_v6 in [false, true] {
                let direct = SocketAddr::new(pod.ip(is_v6), TARGET_PORT);
                let services: Vec<_> = services.iter().map(|service| service[usize::from(is_v6)]).collect();
                let orders = [
                    services.clone(),
                    [&services[..], &[direct]].concat(),
                    [&[direct], &services[..]].concat(),
                ];
                for to in orders {
                    port += 1;
                    let from = SocketAddr::new(any(to[0]), port);
                    let held = open_all(host, transport, from, &to, pod.probe().name())?;
                    all_go_on(&held, pod.probe().name())?;
                }
                port += 1;
                let to: Vec<_> = services.into_iter().map(mapped).collect();
                let from = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                let mut held = Vec::new();
                for to in to {
                    let (connection, outcome) = host.open(target(transport, to).from(from), LONG)?;
                    ensure!(outcome.by() == Some(pod.probe().name()), "{transport:?} {to}: {outcome}");
                    held.push((connection, to));
                }
                all_go_on(&held, pod.probe().name())?;
            }
        }
    }
    for (outcome, what) in [(Counted::Delivered, "this node"), (Counted::Forwarded, "the other one")] {
        let translated = topology.node(0).maps().outcomes(Hook::ToNetdev, outcome)?;
        ensure!(translated > 0, "nothing went to {what} by the uplink's program");
    }
    topology.close()
}

#[test]
fn a_connection_ends_with_its_backend_and_a_datagram_socket_moves() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    filter_by_reverse_path(&topology)?;
    let host = topology.node(0).host();
    for node in [0, 1] {
        let name = format!("web-{node}");
        let _first = server(&topology, &name, node)?;
        let services = [
            service(&topology, &format!("{name}-a"), &name)?,
            service(&topology, &format!("{name}-b"), &name)?,
        ];
        topology.settle()?;
        host_paths_are(&topology, true)?;
        let mut held = Vec::new();
        for transport in TRANSPORTS {
            for is_v6 in [false, true] {
                let to = services.map(|service| service[usize::from(is_v6)]);
                let port = 42_000 + u16::from(is_v6) + 10 * u16::try_from(node)?;
                let from = SocketAddr::new(any(to[0]), port);
                let opened = open_all(host, transport, from, &to, &format!("default/{name}"))?;
                held.extend(opened.into_iter().map(|(connection, to)| (connection, transport, to)));
            }
        }
        // Its successor has the same label.
        let second =
            topology.add_pod(PodSpec::new("default", &format!("{name}-next")).label("app", &name))?;
        TRANSPORTS.iter().try_for_each(|transport| second.probe().listen(*transport, TARGET_PORT))?;
        topology.delete_pod("default", &name)?;
        topology.settle()?;
        for (connection, transport, to) in &held {
            eventually(format!("{transport:?} {to} is rid of {name}"), PATIENCE, || {
                let outcome = connection.exchange(SHORT)?;
                if *transport == Transport::Tcp {
                    ensure!(outcome != Outcome::TimedOut && !outcome.is_answered(), "{outcome}");
                } else {
                    ensure!(outcome.by() == Some(second.probe().name()), "{outcome}");
                }
                Ok(())
            })?;
        }
    }
    topology.close()
}

#[test]
fn the_policy_of_the_backend_excepts_its_own_node_alone() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let host = topology.node(0).host();
    for (node, name) in ["near", "far"].into_iter().enumerate() {
        let pod = server(&topology, name, node)?;
        let services = [
            service(&topology, &format!("{name}-a"), name)?,
            service(&topology, &format!("{name}-b"), name)?,
        ];
        topology.control_plane.apply(&policy(
            name,
            &json!({ "podSelector": { "matchLabels": { "app": name } }, "policyTypes": ["Ingress", "Egress"] }),
        ))?;
        topology.settle()?;
        host_paths_are(&topology, true)?;
        for transport in TRANSPORTS {
            for is_v6 in [false, true] {
                let to = services.map(|service| service[usize::from(is_v6)]);
                let from = SocketAddr::new(any(to[0]), 43_000 + u16::from(is_v6));
                if node == 0 {
                    let held = open_all(host, transport, from, &to, pod.probe().name())?;
                    all_go_on(&held, pod.probe().name())?;
                } else {
                    to.into_iter().try_for_each(|to| is_silent(host, target(transport, to).from(from)))?;
                }
            }
        }
    }
    topology.close()
}

#[test]
fn without_a_way_to_services_sockets_are_translated_as_before() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, "web", 0)?;
    let services = [service(&topology, "one", "web")?, service(&topology, "two", "web")?];
    topology.settle()?;
    host_paths_are(&topology, true)?;
    let node = topology.node(0);
    let defaults = |verb: &str| {
        let (v4, v6) = ("default via 192.168.77.1", "default via fd00:77::1");
        node.netns().ip(&format!("route {verb} {v4}\nroute {verb} {v6}\n"))
    };
    let from = |to: SocketAddr, port| SocketAddr::new(any(to), port);
    defaults("del")?;
    host_paths_are(&topology, false)?;
    for transport in TRANSPORTS {
        for to in services[0] {
            let target = target(transport, to).from(from(to, 44_000));
            is_answered_by(pod.probe().name(), node.host(), target)?;
        }
    }
    defaults("add")?;
    host_paths_are(&topology, true)?;
    for transport in TRANSPORTS {
        for is_v6 in [false, true] {
            let to = services.map(|service| service[usize::from(is_v6)]);
            let held = open_all(node.host(), transport, from(to[0], 44_001), &to, pod.probe().name())?;
            all_go_on(&held, pod.probe().name())?;
        }
    }
    topology.close()
}

#[test]
fn any_address_of_the_host_will_do_also_one_that_comes_later_and_goes() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    filter_by_reverse_path(&topology)?;
    let pod = server(&topology, "web", 0)?;
    let services = [service(&topology, "one", "web")?, service(&topology, "two", "web")?];
    topology.settle()?;
    host_paths_are(&topology, true)?;
    let node = topology.node(0);
    let later: [IpAddr; 2] = ["192.168.77.99".parse()?, "fd00:77::99".parse()?];
    node.netns().ip("addr add 192.168.77.99/24 dev eth0\naddr add fd00:77::99/64 dev eth0 nodad\n")?;
    let opens = |addresses: &[IpAddr], port| -> Result<()> {
        for address in addresses {
            let to = services.map(|service| service[usize::from(address.is_ipv6())]);
            for transport in TRANSPORTS {
                let from = SocketAddr::new(*address, port);
                let held = open_all(node.host(), transport, from, &to, pod.probe().name())?;
                all_go_on(&held, pod.probe().name())?;
            }
        }
        Ok(())
    };
    opens(&[&node.addresses()[..], &later].concat(), 45_000)?;
    node.netns().ip("addr del 192.168.77.99/24 dev eth0\naddr del fd00:77::99/64 dev eth0\n")?;
    // Whatever the agent is doing: the programs work on without it.
    node.kill_agent()?;
    opens(&node.addresses(), 45_001)?;
    topology.close()
}

#[test]
fn the_program_of_what_leaves_is_put_back() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    node.pause_agent();
    let name = "eth0:to_netdev";
    let path = MillraceDir::new(node.bpffs()).link_path(name);
    link::detach(bpf_maps::obj_get(&path)?.as_fd(), name)?;
    node.resume_agent();
    ensure!(node.health()?.unmet.is_empty(), "not ready");
    let problems = node.status()?.problems;
    let found = "uplink: to_netdev on eth0 was detached";
    ensure!(problems.iter().any(|problem| problem.contains(found)), "{problems:?}");
    topology.close()
}

/// A target whose socket is bound for itself alone stays where it was: at the socket.
#[test]
fn a_socket_that_shares_its_port_with_nobody_is_translated_at_once() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, "web", 1)?;
    let services = service(&topology, "web", "web")?;
    topology.settle()?;
    host_paths_are(&topology, true)?;
    let node = topology.node(0);
    for to in services {
        for transport in [Transport::Tcp, Transport::Udp, Transport::UnconnectedUdp] {
            let target = Target { transport, to, from: None };
            let (connection, outcome) = node.host().open(target, LONG)?;
            if outcome.by() != Some(pod.probe().name()) {
                bail!("{target:?}: {outcome}");
            }
            drop(connection);
        }
    }
    let sent = node.maps().outcomes(Hook::ToNetdev, Counted::Forwarded)?;
    assert_eq!(sent, 0, "packets were translated");
    topology.close()
}
