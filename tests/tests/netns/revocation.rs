//! What a policy revokes stays revoked while both ends go on speaking, and comes back when it is allowed again.
use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    cluster::{PodSpec, Protocol, ServiceSpec},
    eventually::{PATIENCE, eventually, holds},
    kernel,
    probe::wire::{LoadPlan, Target, Transport},
    topology::Topology,
};
use serde_json::{Value, json};

use crate::{
    expect::{LONG, TRANSPORTS, are_silent, held, is_answered_by, is_silent},
    objects::policy,
};

/// Twenty connections under load, from a pod of each node, by service and directly: each is cut, whoever speaks last.
fn is_cut(before: Option<&Value>, after: &Value) -> Result<()> {
    let topology = Topology::start()?;
    let server = topology.add_pod(PodSpec::new("default", "server").label("app", "server"))?;
    let near = topology.add_pod(PodSpec::new("default", "near").label("app", "client"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").label("app", "client").on(1))?;
    for transport in TRANSPORTS {
        server.probe().listen(transport, 80)?;
    }
    let service = ServiceSpec::new("default", "server").select("app", "server");
    let ips = topology.control_plane.apply_service(&service.port(Protocol::Tcp, 80, 80))?;
    if let Some(before) = before {
        topology.control_plane.apply(&policy("changing", before))?;
    }
    topology.settle()?;
    let by_service = ips.both().map(|ip| SocketAddr::new(ip, 80));
    let targets: Vec<SocketAddr> = server.at(80).into_iter().chain(by_service).collect();
    let plan = LoadPlan {
        long_lived: targets.iter().cycle().take(10).map(|to| Target::tcp(*to)).collect(),
        fresh: Vec::new(),
        forbidden: Vec::new(),
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(30),
    };
    // Not through the socket programs: by service these are translated packet by packet.
    let bystanders = [topology.bystander(&near)?, topology.bystander(&far)?];
    for bystander in &bystanders {
        bystander.start_load(&plan)?;
        holds("all connections are busy", PATIENCE, || {
            bystander.load_so_far().is_ok_and(|load| load.answered_long_lived >= 200)
        })?;
    }
    topology.control_plane.apply(&policy("changing", after))?;
    topology.settle()?;
    let count = || -> Result<u64> {
        bystanders.iter().map(|bystander| Ok(bystander.load_so_far()?.answered_long_lived)).sum()
    };
    // Answers that were under way.
    is_silent(near.probe(), Target::tcp(targets[0]))?;
    let (answers, requests) = (count()?, server.probe().served(Transport::Tcp, 80)?);
    for to in targets.iter().cycle().take(6) {
        is_silent(near.probe(), Target::tcp(*to))?;
    }
    assert_eq!(count()?, answers, "a client was answered after the policy");
    assert_eq!(server.probe().served(Transport::Tcp, 80)?, requests, "a request arrived after the policy");
    drop(bystanders);
    topology.close()
}

#[test]
fn twenty_busy_connections_are_cut_by_an_ingress_policy_of_their_server() -> Result<()> {
    kernel::require(kernel::NETNS);
    let server = json!({ "matchLabels": { "app": "server" } });
    let open = json!({ "podSelector": server, "policyTypes": ["Ingress"], "ingress": [{}] });
    is_cut(Some(&open), &json!({ "podSelector": server, "policyTypes": ["Ingress"] }))
}

#[test]
fn twenty_busy_connections_are_cut_by_an_egress_policy_of_their_clients() -> Result<()> {
    kernel::require(kernel::NETNS);
    let client = json!({ "matchLabels": { "app": "client" } });
    let open = json!({ "podSelector": client, "policyTypes": ["Egress"], "egress": [{}] });
    is_cut(Some(&open), &json!({ "podSelector": client, "policyTypes": ["Egress"] }))
}

#[test]
fn twenty_busy_connections_are_cut_by_the_first_policy() -> Result<()> {
    kernel::require(kernel::NETNS);
    let server = json!({ "matchLabels": { "app": "server" } });
    is_cut(None, &json!({ "podSelector": server, "policyTypes": ["Ingress"] }))
}

#[test]
fn a_connection_that_is_allowed_again_goes_on() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let near = topology.add_pod(PodSpec::new("default", "near"))?;
    let far = topology.add_pod(PodSpec::new("default", "far").on(1))?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    for server in [&near, &far] {
        for transport in TRANSPORTS {
            server.probe().listen(transport, 80)?;
        }
    }
    let open = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}] });
    topology.control_plane.apply(&policy("changing", &open))?;
    topology.settle()?;
    let connections = held(client.probe(), &[near.at(80), far.at(80)].concat())?;
    topology
        .control_plane
        .apply(&policy("changing", &json!({ "podSelector": {}, "policyTypes": ["Ingress"] })))?;
    topology.settle()?;
    are_silent(&connections)?;
    topology.control_plane.apply(&policy("changing", &open))?;
    topology.settle()?;
    for (connection, transport, to) in &connections {
        eventually(format!("{transport:?} {to} goes on"), PATIENCE, || {
            let outcome = connection.exchange(LONG)?;
            ensure!(outcome.is_answered(), "{outcome}");
            Ok(())
        })?;
    }
    is_answered_by("default/far", client.probe(), Target::tcp(far.at(80)[0]))?;
    drop(connections);
    topology.close()
}
