//! Pods reach pods by address: on their node and on another one, TCP and UDP, IPv4 and IPv6.
use std::net::IpAddr;

use anyhow::Result;
use harness::{
    cluster::PodSpec,
    kernel,
    probe::wire::Transport,
    topology::{CLIENT_V4, CLIENT_V6, Topology},
};

use crate::expect::{TRANSPORTS, answer, is_answered_by, target};

#[test]
fn pods_reach_pods_on_their_node_and_on_another_one_in_both_families() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    for server in [&near, &far] {
        for transport in TRANSPORTS {
            server.probe().listen(transport, 80)?;
            for to in server.at(80) {
                let answer = answer(client.probe(), target(transport, to))?;
                assert_eq!(answer.by, server.probe().name());
                assert_eq!(
                    answer.saw.ip(),
                    client.ip(to.is_ipv6()),
                    "the server sees the client's own address"
                );
                assert_eq!(answer.from, to);
            }
        }
    }
    topology.close()
}

#[test]
fn pods_and_hosts_reach_each_other_and_the_world_outside() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    for transport in TRANSPORTS {
        pod.probe().listen(transport, 80)?;
        for host in [topology.node(0).host(), topology.node(1).host(), topology.client()] {
            host.listen(transport, 80)?;
            for to in pod.at(80) {
                is_answered_by("default/pod", host, target(transport, to))?;
            }
        }
        let addresses: [(String, [IpAddr; 2]); 2] = [topology.node(0).spec(), topology.node(1).spec()]
            .map(|node| (node.name.clone(), [node.v4.into(), node.v6.into()]));
        let outside = ("client".to_owned(), [CLIENT_V4.into(), CLIENT_V6.into()]);
        for (name, ips) in addresses.into_iter().chain([outside]) {
            for ip in ips {
                is_answered_by(&name, pod.probe(), target(transport, (ip, 80).into()))?;
            }
        }
    }
    topology.close()
}

#[test]
fn a_pod_reaches_itself_by_its_own_address() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = topology.add_pod(PodSpec::new("default", "pod"))?;
    pod.probe().listen(Transport::Tcp, 80)?;
    for to in pod.at(80) {
        is_answered_by("default/pod", pod.probe(), target(Transport::Tcp, to))?;
    }
    topology.close()
}

#[test]
fn a_flow_that_no_policy_and_no_service_touches_takes_no_conntrack_entry() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    for server in [&near, &far] {
        for transport in TRANSPORTS {
            server.probe().listen(transport, 80)?;
            for to in server.at(80) {
                answer(client.probe(), target(transport, to))?;
            }
        }
    }
    for node in topology.nodes() {
        assert_eq!(node.maps().flows()?, 0, "{}", node.spec().name);
    }
    topology.close()
}
