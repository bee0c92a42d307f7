//! Nodes in different subnets: pods go where their host would send.
use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually},
    kernel,
    topology::{Node, Options, Pod, Topology},
};

use crate::{
    expect::{TRANSPORTS, answer, is_answered_by, target},
    firewall::start_firewall,
};

const PORT: u16 = 80;

/// Two nodes with the fabric's router between them, and a server on each.
fn apart() -> Result<(Topology, Vec<Arc<Pod>>)> {
    let topology = Topology::build(&Options { apart: true, ..Options::default() })?;
    topology.start_agents()?;
    let pods: Vec<_> = (0..2)
        .map(|node| {
            topology.add_pod(PodSpec::new("default", &format!("pod-{node}")).label("app", "pod").on(node))
        })
        .collect::<Result<_>>()?;
    for pod in &pods {
        TRANSPORTS.iter().try_for_each(|transport| pod.probe().listen(*transport, PORT))?;
    }
    Ok((topology, pods))
}

/// Each pod with the other one.
fn pairs(pods: &[Arc<Pod>]) -> [(&Pod, &Pod); 2] {
    [(&pods[0], &pods[1]), (&pods[1], &pods[0])]
}

fn has_no_problem(node: &Node) -> Result<()> {
    let problems = node.status()?.problems;
    ensure!(problems.is_empty(), "{}: {problems:?}", node.spec().name);
    Ok(())
}

#[test]
fn pods_behind_a_router_are_reached_like_from_their_hosts_and_past_the_stack() -> Result<()> {
    kernel::require(kernel::NETNS);
    let (topology, pods) = apart()?;
    let spec = ServiceSpec::new("default", "far").select("app", "pod").port(Protocol::Tcp, PORT, PORT);
    let service = topology.control_plane.apply_service(&spec)?;
    topology.settle()?;
    let check = || -> Result<()> {
        for (client, server) in pairs(&pods) {
            for to in server.at(PORT) {
                for transport in TRANSPORTS {
                    let answer = answer(client.probe(), target(transport, to))?;
                    ensure!(answer.by == server.probe().name(), "{to}: {answer:?}");
                    ensure!(answer.saw.ip() == client.ip(to.is_ipv6()), "{to}: {answer:?}");
                }
            }
        }
        Ok(())
    };
    for (client, server) in pairs(&pods) {
        for to in server.at(PORT) {
            for transport in TRANSPORTS {
                is_answered_by(
                    server.probe().name(),
                    topology.node(client.node()).host(),
                    target(transport, to),
                )?;
            }
        }
    }
    check()?;
    topology.nodes().iter().try_for_each(has_no_problem)?;
    // The host's firewall sees neither direction.
    for node in topology.nodes() {
        start_firewall(node, "chain forward { type filter hook forward priority 0; policy drop; }")?;
    }
    check()?;
    for pod in &pods {
        for ip in service.both() {
            let mut servers = std::collections::BTreeSet::new();
            for _ in 0..32 {
                servers.insert(
                    answer(pod.probe(), target(harness::probe::wire::Transport::Tcp, (ip, PORT).into()))?.by,
                );
            }
            ensure!(servers.len() == 2, "{ip}: {servers:?}");
        }
    }
    topology.close()
}

#[test]
fn pods_that_no_route_leads_to_are_a_problem_until_one_does() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { apart: true, ..Options::default() })?;
    let node = topology.node(0);
    let routers: [IpAddr; 2] = ["192.168.77.1".parse()?, "fd00:77::1".parse()?];
    routers.iter().try_for_each(|router| node.netns().ip(&format!("route del default via {router}\n")))?;
    topology.start_agents()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let server = topology.add_pod(PodSpec::new("default", "server").on(1))?;
    server.probe().listen(TRANSPORTS[0], PORT)?;
    let problems = node.status()?.problems;
    for cidr in &topology.node(1).spec().pod_cidrs {
        ensure!(problems.iter().any(|problem| problem.contains(cidr)), "{cidr}: {problems:?}");
    }
    for (cidr, router) in topology.node(1).spec().pod_cidrs.iter().zip(routers) {
        node.netns().ip(&format!("route add {cidr} via {router}\n"))?;
    }
    eventually("the routes are followed", PATIENCE, || has_no_problem(node))?;
    for to in server.at(PORT) {
        is_answered_by("default/server", client.probe(), target(TRANSPORTS[0], to))
            .context("over the new route")?;
    }
    topology.close()
}
