//! The host's own firewall never sees traffic between pods, in neither direction; what does cross the host's stack
//! crosses it in both.
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    kernel,
    probe::wire::Target,
    topology::{CLIENT_V4, CLIENT_V6, Pod, Topology},
};

use crate::{
    expect::{TRANSPORTS, becomes_answered, is_answered_by, is_silent, target},
    firewall::{nft, start_firewall},
    objects::policy,
};

const PORT: u16 = 80;

/// What Docker sets (`iptables -P FORWARD DROP`), and what firewalld adds.
const FIREWALLS: [&str; 2] = [
    "chain forward { type filter hook forward priority 0; policy drop; }",
    "chain forward { type filter hook forward priority 0; ct state invalid drop; }",
];

/// A client and a server on each of two nodes.
struct Stage {
    topology: Topology,
    pods: Vec<Arc<Pod>>,
}

impl Stage {
    fn build() -> Result<Self> {
        let topology = Topology::start()?;
        let pods: Vec<_> = (0..2)
            .map(|node| {
                let name = format!("pod-{node}");
                let spec = PodSpec::new("default", &name).on(node);
                topology.add_pod(spec.label("app", "pod").label("name", &name))
            })
            .collect::<Result<_>>()?;
        for pod in &pods {
            TRANSPORTS.iter().try_for_each(|transport| pod.probe().listen(*transport, PORT))?;
        }
        Ok(Self { topology, pods })
    }

    fn protect(&self, rules: &str) -> Result<()> {
        self.topology.nodes().iter().try_for_each(|node| start_firewall(node, rules))
    }

    /// Each pod with the other one, which is on the other node.
    fn pairs(&self) -> [(&Pod, &Pod); 2] {
        [(&self.pods[0], &self.pods[1]), (&self.pods[1], &self.pods[0])]
    }
}

#[test]
fn pods_of_different_nodes_talk_whatever_the_hosts_forward_chains_drop() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    for rules in FIREWALLS {
        stage.protect(rules)?;
        for (client, server) in stage.pairs() {
            for transport in TRANSPORTS {
                for to in server.at(PORT) {
                    is_answered_by(server.probe().name(), client.probe(), target(transport, to))?;
                }
            }
        }
    }
    stage.topology.close()
}

#[test]
fn a_service_answers_from_the_other_node_whatever_the_hosts_forward_chains_drop() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    for (client, server) in stage.pairs() {
        let name = server.name();
        let service = ServiceSpec::new("default", name).select("name", name);
        let service = service.port(Protocol::Tcp, PORT, PORT).port(Protocol::Udp, PORT, PORT);
        let ips = stage.topology.control_plane.apply_service(&service)?;
        stage.topology.settle()?;
        let bystander = stage.topology.bystander(client)?;
        for rules in FIREWALLS {
            stage.protect(rules)?;
            for transport in TRANSPORTS {
                for ip in ips.both() {
                    // By the socket, and packet by packet.
                    for client in [client.probe(), &bystander] {
                        is_answered_by(server.probe().name(), client, target(transport, (ip, PORT).into()))?;
                    }
                }
            }
        }
    }
    stage.topology.close()
}

#[test]
fn connections_with_the_world_outside_cross_the_hosts_stack_in_both_directions() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let outside = stage.topology.client();
    TRANSPORTS.iter().try_for_each(|transport| outside.listen(*transport, PORT))?;
    // Half a connection would be invalid to conntrack.
    stage.protect(FIREWALLS[1])?;
    for pod in &stage.pods {
        for transport in TRANSPORTS {
            for ip in [IpAddr::from(CLIENT_V4), CLIENT_V6.into()] {
                is_answered_by("client", pod.probe(), target(transport, (ip, PORT).into()))?;
            }
            for to in pod.at(PORT) {
                is_answered_by(pod.probe().name(), outside, target(transport, to))?;
                for node in stage.topology.nodes() {
                    is_answered_by(pod.probe().name(), node.host(), target(transport, to))?;
                }
            }
        }
    }
    // And the firewall still decides about it.
    stage.protect(FIREWALLS[0])?;
    for to in stage.pods[0].at(PORT) {
        is_silent(outside, Target::tcp(to))?;
    }
    stage.topology.nodes().iter().try_for_each(|node| nft(node, "delete table inet firewall\n"))?;
    for to in stage.pods[0].at(PORT) {
        becomes_answered(outside, Target::tcp(to))?;
    }
    stage.topology.close()
}

#[test]
fn a_policy_judges_what_comes_from_another_node_past_the_stack() -> Result<()> {
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    let friend = stage.topology.add_pod(PodSpec::new("default", "friend").on(1).label("app", "friend"))?;
    stage.protect(FIREWALLS[0])?;
    stage.topology.control_plane.apply(&policy(
        "friends",
        &serde_json::json!({
            "podSelector": { "matchLabels": { "app": "pod" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "friend" } } }] }],
        }),
    ))?;
    stage.topology.settle()?;
    let [server, stranger] = [&stage.pods[0], &stage.pods[1]];
    for transport in TRANSPORTS {
        for to in server.at(PORT) {
            is_answered_by(server.probe().name(), friend.probe(), target(transport, to))?;
            is_silent(stranger.probe(), target(transport, to))?;
            // The pod's own node is let in, as ever.
            is_answered_by(server.probe().name(), stage.topology.node(0).host(), target(transport, to))?;
        }
    }
    stage.topology.close()
}

#[test]
fn a_stream_between_nodes_arrives_whole_in_both_directions() -> Result<()> {
    const SIZE: usize = 64 << 20;
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    for (client, server) in stage.pairs() {
        for v6 in [false, true] {
            let listener = server.netns().run(|| TcpListener::bind((server.ip(v6), 81)))??;
            let to = listener.local_addr()?;
            let stream = client.netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
            let (mut accepted, _) = listener.accept()?;
            let sum = std::thread::scope(|scope| {
                scope.spawn(move || {
                    let chunk: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
                    let mut stream = stream;
                    (0..SIZE / chunk.len()).try_for_each(|_| stream.write_all(&chunk))
                });
                accepted.set_read_timeout(Some(Duration::from_secs(20)))?;
                let mut received = Vec::with_capacity(SIZE);
                accepted.read_to_end(&mut received).context("read the stream")?;
                ensure!(
                    received.chunks(256).all(|chunk| chunk.iter().copied().eq(0..=255)),
                    "it was damaged"
                );
                anyhow::Ok(received.len())
            })?;
            ensure!(sum == SIZE, "{sum} bytes of {SIZE} to {to}");
        }
    }
    stage.topology.close()
}
