//! NetworkPolicies beyond the table: nodes, the outside, ranges and named ports, and changes under live connections.
use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    kernel,
    probe::wire::{Outcome, Target, Transport},
    topology::{Pod, Topology},
};
use serde_json::{Value, json};

use crate::{
    expect::{
        LONG, SHORT, TRANSPORTS, are_silent, becomes_answered, held, is_answered_by, is_silent, target,
    },
    objects::policy,
};

fn deny_ingress() -> Value {
    policy("deny-ingress", &json!({ "podSelector": {}, "policyTypes": ["Ingress"] }))
}

fn server(topology: &Topology, spec: PodSpec, ports: &[u16]) -> Result<Arc<Pod>> {
    let pod = topology.add_pod(spec)?;
    for transport in TRANSPORTS {
        for port in ports {
            pod.probe().listen(transport, *port)?;
        }
    }
    Ok(pod)
}

/// The policy of the Kubernetes documentation.
const DATABASE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: database
  namespace: default
spec:
  podSelector:
    matchLabels:
      app: database
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: my-api
    ports:
    - protocol: TCP
      port: 5432
";

#[test]
fn only_my_api_reaches_the_database() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let database =
        server(&topology, PodSpec::new("default", "database").label("app", "database"), &[5432, 5433])?;
    let near = topology.add_pod(PodSpec::new("default", "my-api-0").label("app", "my-api"))?;
    let far = topology.add_pod(PodSpec::new("default", "my-api-1").label("app", "my-api").on(1))?;
    let other_near = topology.add_pod(PodSpec::new("default", "other-0").label("app", "other"))?;
    let other_far = topology.add_pod(PodSpec::new("default", "other-1").label("app", "other").on(1))?;
    let service = ServiceSpec::new("default", "database").select("app", "database");
    let ips = topology.control_plane.apply_service(&service.port(Protocol::Tcp, 5432, 5432))?;
    topology.control_plane.apply_yaml(DATABASE)?;
    topology.settle()?;

    let by_service = ips.both().map(|ip| SocketAddr::new(ip, 5432));
    for to in database.at(5432).into_iter().chain(by_service) {
        for client in [&near, &far] {
            is_answered_by("default/database", client.probe(), Target::tcp(to))?;
        }
        for client in [&other_near, &other_far] {
            is_silent(client.probe(), Target::tcp(to))?;
            is_silent(&topology.bystander(client)?, Target::tcp(to))?;
        }
    }
    for to in database.at(5432) {
        is_silent(near.probe(), Target::udp(to))?;
        is_silent(topology.client(), Target::tcp(to))?;
    }
    for to in database.at(5433) {
        is_silent(far.probe(), Target::tcp(to))?;
    }
    topology.close()
}

#[test]
fn under_default_deny_the_own_node_gets_in_from_every_address_and_other_hosts_do_not() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, PodSpec::new("default", "pod"), &[80])?;
    topology.control_plane.apply(&deny_ingress())?;
    topology.settle()?;
    let node = topology.node(0);
    for transport in TRANSPORTS {
        for from in node.addresses() {
            let to = SocketAddr::new(pod.ip(from.is_ipv6()), 80);
            is_answered_by("default/pod", node.host(), target(transport, to).from((from, 0).into()))?;
        }
        for to in pod.at(80) {
            is_silent(topology.node(1).host(), target(transport, to))?;
            is_silent(topology.client(), target(transport, to))?;
        }
    }
    topology.close()
}

#[test]
fn under_default_deny_egress_a_pod_reaches_nobody_and_answers_everybody() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, PodSpec::new("default", "pod"), &[80])?;
    let far = server(&topology, PodSpec::new("other", "far").on(1), &[80])?;
    let near = server(&topology, PodSpec::new("other", "near"), &[80])?;
    topology.node(0).host().listen(Transport::Tcp, 80)?;
    let deny = json!({ "podSelector": {}, "policyTypes": ["Egress"] });
    topology.control_plane.apply(&policy("deny-egress", &deny))?;
    topology.settle()?;
    for transport in TRANSPORTS {
        for to in far.at(80).into_iter().chain(near.at(80)) {
            is_silent(pod.probe(), target(transport, to))?;
        }
        for to in pod.at(80) {
            for client in [far.probe(), near.probe(), topology.node(0).host(), topology.client()] {
                is_answered_by("default/pod", client, target(transport, to))?;
            }
        }
    }
    let own_node = SocketAddr::new(topology.node(0).spec().v4.into(), 80);
    is_silent(pod.probe(), Target::tcp(own_node))?;
    topology.close()
}

#[test]
fn a_revoking_change_cuts_established_connections() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let near = server(&topology, PodSpec::new("default", "near").label("role", "server"), &[80])?;
    let far = server(&topology, PodSpec::new("default", "far").label("role", "server").on(1), &[80])?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    let open = json!({ "podSelector": { "matchLabels": { "role": "server" } }, "ingress": [{}] });
    let closed = json!({ "podSelector": { "matchLabels": { "role": "server" } }, "ingress": [] });
    topology.control_plane.apply(&policy("server", &open))?;
    topology.settle()?;
    let connections = held(client.probe(), &[near.at(80), far.at(80)].concat())?;
    topology.control_plane.apply(&policy("server", &closed))?;
    topology.settle()?;
    are_silent(&connections)?;
    drop(connections);
    topology.close()
}

#[test]
fn a_first_policy_cuts_connections_that_were_opened_without_one() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let server = server(&topology, PodSpec::new("default", "server"), &[80])?;
    let client = topology.add_pod(PodSpec::new("default", "client").on(1))?;
    let mut connections = Vec::new();
    for to in server.at(80) {
        let (connection, outcome) = client.probe().open(Target::tcp(to), LONG)?;
        assert!(outcome.is_answered(), "{to}: {outcome}");
        connections.push(connection);
    }
    topology.control_plane.apply(&deny_ingress())?;
    topology.settle()?;
    for connection in &connections {
        assert_eq!(connection.exchange(SHORT)?, Outcome::TimedOut);
    }
    drop(connections);
    topology.close()
}

#[test]
fn an_allowed_connection_survives_policy_changes() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let near = server(&topology, PodSpec::new("default", "near"), &[80])?;
    let far = server(&topology, PodSpec::new("default", "far").on(1), &[80])?;
    let client = topology.add_pod(PodSpec::new("default", "client").label("app", "client"))?;
    // Opened under a policy: of a connection that is older than all policies nobody knows who opened it.
    let all = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}] });
    topology.control_plane.apply(&policy("changing", &all))?;
    topology.settle()?;
    let connections = held(client.probe(), &[near.at(80), far.at(80)].concat())?;
    let from_client = json!({ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] });
    let specs = [
        json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [from_client] }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [from_client], "egress": [{}] }),
        json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "ports": [{ "port": 80 }, { "port": 80, "protocol": "UDP" }] }] }),
    ];
    let check = |after: &str| -> Result<()> {
        topology.settle()?;
        for (connection, transport, to) in &connections {
            let outcome = connection.exchange(LONG)?;
            assert!(outcome.is_answered(), "{after}: {transport:?} {to}: {outcome}");
        }
        Ok(())
    };
    for (number, spec) in specs.iter().enumerate() {
        topology.control_plane.apply(&policy("changing", spec))?;
        check(&format!("policy {number}"))?;
    }
    topology.control_plane.delete("NetworkPolicy", "default", "changing")?;
    check("no policy")?;
    drop(connections);
    topology.close()
}

#[test]
fn an_ip_block_admits_its_addresses_but_not_its_exceptions() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, PodSpec::new("default", "pod"), &[80])?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    let [near_v4, near_v6] = [near.ip(false), near.ip(true)];
    let blocks = json!([
        { "ipBlock": { "cidr": "203.0.113.0/24" } },
        { "ipBlock": { "cidr": "2001:db8:113::/64" } },
        { "ipBlock": { "cidr": "10.244.0.0/16", "except": [format!("{near_v4}/32")] } },
        { "ipBlock": { "cidr": "fd00:10:244::/48", "except": [format!("{near_v6}/128")] } },
    ]);
    let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": blocks }] });
    topology.control_plane.apply(&policy("blocks", &spec))?;
    topology.settle()?;
    for transport in TRANSPORTS {
        for to in pod.at(80) {
            is_answered_by("default/pod", topology.client(), target(transport, to))?;
            is_answered_by("default/pod", far.probe(), target(transport, to))?;
            is_silent(near.probe(), target(transport, to))?;
            is_silent(topology.node(1).host(), target(transport, to))?;
        }
    }
    topology.close()
}

#[test]
fn a_port_range_ends_where_it_says() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, PodSpec::new("default", "pod"), &[7999, 8000, 8005, 8010, 8011])?;
    let client = topology.add_pod(PodSpec::new("default", "client").on(1))?;
    let range = json!([{ "ports": [{ "port": 8000, "endPort": 8010 }] }]);
    let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": range });
    topology.control_plane.apply(&policy("range", &spec))?;
    topology.settle()?;
    for port in [8000, 8005, 8010] {
        for to in pod.at(port) {
            is_answered_by("default/pod", client.probe(), Target::tcp(to))?;
            is_silent(client.probe(), Target::udp(to))?;
        }
    }
    for port in [7999, 8011] {
        for to in pod.at(port) {
            is_silent(client.probe(), Target::tcp(to))?;
        }
    }
    topology.close()
}

#[test]
fn a_named_port_is_resolved_in_each_destination() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let low = PodSpec::new("default", "low").label("app", "web").port("http", Protocol::Tcp, 80);
    let high = PodSpec::new("default", "high").label("app", "web").port("http", Protocol::Tcp, 8080).on(1);
    let (low, high) = (server(&topology, low, &[80, 8080])?, server(&topology, high, &[80, 8080])?);
    let client = topology.add_pod(PodSpec::new("default", "client").label("app", "client"))?;
    let spec = json!({
        "podSelector": { "matchLabels": { "app": "client" } },
        "policyTypes": ["Egress"],
        "egress": [{ "to": [{ "podSelector": {} }], "ports": [{ "port": "http" }] }],
    });
    topology.control_plane.apply(&policy("named", &spec))?;
    topology.settle()?;
    for (pod, open, closed) in [(&low, 80, 8080), (&high, 8080, 80)] {
        for to in pod.at(open) {
            is_answered_by(pod.probe().name(), client.probe(), Target::tcp(to))?;
        }
        for to in pod.at(closed) {
            is_silent(client.probe(), Target::tcp(to))?;
        }
    }
    topology.close()
}

#[test]
fn a_client_that_was_denied_gets_in_once_a_policy_allows_it() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let pod = server(&topology, PodSpec::new("default", "pod"), &[80])?;
    let client = topology.add_pod(PodSpec::new("other", "client").on(1))?;
    topology.control_plane.apply(&deny_ingress())?;
    topology.settle()?;
    for to in pod.at(80) {
        is_silent(client.probe(), Target::tcp(to))?;
    }
    // No settling here: from the file to the packet.
    topology.control_plane.delete("NetworkPolicy", "default", "deny-ingress")?;
    for to in pod.at(80) {
        becomes_answered(client.probe(), Target::tcp(to))?;
    }
    topology.close()
}
