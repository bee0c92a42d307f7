//! `NetworkPolicies` as users write them. What is denied meets silence.
use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    probe::{
        client::Probe,
        wire::{Outcome, Question, Target},
    },
};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use crate::{
    ground::{ANSWER, Ground, SILENCE, becomes, gives, pod, tcp, udp},
    shared::{PATIENCE, millrace},
};

fn is_silent(outcome: &Outcome) -> bool {
    *outcome == Outcome::TimedOut
}

/// The example of the Kubernetes documentation.
const API_TO_DATABASE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-policy}
spec:
  podSelector: {matchLabels: {app: database}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: my-api}}}]
    ports: [{protocol: TCP, port: 5432}]
";

#[test]
fn only_the_api_reaches_the_database_and_only_on_its_port() -> Result<()> {
    let ground = Ground::new(millrace(), "database")?;
    let database = pod("database", "node-1", "app: database", "serve, --tcp=5432, --tcp=5433, --udp=5432");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: database}\nspec: {ipFamilyPolicy: \
                   RequireDualStack, selector: {app: database}, ports: [{port: 5432}]}\n---\n";
    let client = |name, node, app: &str| pod(name, node, &format!("app: {app}"), "serve");
    let clients = [
        client("api-1", "node-1", "my-api"),
        client("api-2", "node-2", "my-api"),
        client("other-1", "node-1", "other"),
        client("other-2", "node-2", "other"),
    ];
    ground.apply(&[database, service.to_owned(), clients.concat()].concat())?;
    let probes =
        |names: [&str; 2]| names.iter().map(|name| ground.probe(name)).collect::<Result<Vec<Probe>>>();
    let (apis, others) = (probes(["api-1", "api-2"])?, probes(["other-1", "other-2"])?);
    let (pod, service) = (ground.pod_addresses("database")?, ground.service_addresses("database")?);
    let wanted = [tcp(&pod, 5432), tcp(&service, 5432)].concat();
    let unwanted = [tcp(&pod, 5433), udp(&pod, 5432)].concat();
    let all = [&wanted[..], &unwanted].concat();
    ensure!(all.len() == 8, "not of both families: {all:?}");

    for probe in apis.iter().chain(&others) {
        becomes(probe, &all, ANSWER, Outcome::is_answered).context("without a policy")?;
    }
    ground.apply(API_TO_DATABASE)?;
    for probe in &others {
        becomes(probe, &all, SILENCE, is_silent)?;
    }
    for probe in &apis {
        becomes(probe, &unwanted, SILENCE, is_silent)?;
    }
    for _ in 0..3 {
        for probe in &others {
            gives(probe, &all, SILENCE, is_silent)?;
        }
        for probe in &apis {
            gives(probe, &unwanted, SILENCE, is_silent)?;
            gives(probe, &wanted, ANSWER, Outcome::is_answered)?;
        }
    }
    // The node is no pod, and always reaches its own.
    let node = ground.cluster().probe_on_node(ground.cluster().node("node-1")?)?;
    gives(&node, &all, ANSWER, Outcome::is_answered)?;

    ground.objects::<NetworkPolicy>().delete("db-policy")?;
    for probe in apis.iter().chain(&others) {
        becomes(probe, &all, ANSWER, Outcome::is_answered).context("without the policy")?;
    }
    Ok(())
}

const DENY_EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress}
spec: {podSelector: {}, policyTypes: [Egress]}
";

const ALLOW_DNS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-dns}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
";

#[test]
fn without_egress_there_is_no_dns_until_a_rule_allows_it() -> Result<()> {
    let ground = Ground::new(millrace(), "no-dns")?;
    ground.apply(
        &[
            pod("client-1", "node-1", "app: client", "serve"),
            pod("client-2", "node-2", "app: client", "serve"),
        ]
        .concat(),
    )?;
    ground.apply(&pod("server", "node-1", "app: server", "serve, --tcp=80"))?;
    let server = tcp(&ground.pod_addresses("server")?, 80);
    let families = ground.cluster().options().families.each();
    let dns: Vec<_> = families.iter().map(|family| family.dns_service()).collect();
    let servers = [udp(&dns, 53), tcp(&dns, 53)].concat();
    let clients = [ground.probe("client-1")?, ground.probe("client-2")?];

    for client in &clients {
        for server in &servers {
            eventually(format!("{} looks up", client.name()), PATIENCE, || finds(client, *server, ANSWER))?;
        }
        becomes(client, &server, ANSWER, Outcome::is_answered)?;
    }
    ground.apply(DENY_EGRESS)?;
    for client in &clients {
        becomes(client, &server, SILENCE, is_silent)?;
        for server in &servers {
            let answer = look_up(client, *server, SILENCE)?;
            assert_eq!(answer, Err(Outcome::TimedOut), "{} asks {:?}", client.name(), server);
        }
    }
    ground.apply(ALLOW_DNS)?;
    for client in &clients {
        for server in &servers {
            eventually(format!("{} looks up", client.name()), PATIENCE, || finds(client, *server, SILENCE))?;
        }
        let found = client.resolve("kubernetes.default.svc.cluster.local")?;
        assert!(found.contains(&ground.cluster().options().families.first().api_service()), "{found:?}");
        gives(client, &server, SILENCE, is_silent).context("only DNS is allowed")?;
    }
    Ok(())
}

fn look_up(client: &Probe, server: Target, timeout: Duration) -> Result<Result<Vec<IpAddr>, Outcome>> {
    client.look_up(&Question { server, name: "kubernetes.default.svc.cluster.local".to_owned(), timeout })
}

/// An error unless the server knows the address of the API server.
fn finds(client: &Probe, server: Target, timeout: Duration) -> Result<()> {
    let api = millrace().options().families.first().api_service();
    let answer = look_up(client, server, timeout)?;
    let found = answer.as_ref().is_ok_and(|addresses| addresses.contains(&api));
    ensure!(found, "{} asks {:?} {}: {answer:?}", client.name(), server.transport, server.to);
    Ok(())
}

const FROM_THE_TEAM: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-the-team}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: ours}}}]
";

#[test]
fn a_namespace_selector_follows_the_labels_of_namespaces() -> Result<()> {
    let home = Ground::new(millrace(), "team-home")?;
    let first = Ground::labelled(millrace(), "team-first", "team: ours")?;
    let second = Ground::labelled(millrace(), "team-second", "team: theirs")?;
    home.apply(
        &[pod("server", "node-1", "app: server", "serve, --tcp=80, --udp=80"), FROM_THE_TEAM.to_owned()]
            .concat(),
    )?;
    for (ground, node) in [(&first, "node-1"), (&second, "node-2")] {
        ground.apply(&pod("client", node, "app: client", "serve"))?;
    }
    let addresses = home.pod_addresses("server")?;
    let server = [tcp(&addresses, 80), udp(&addresses, 80)].concat();
    let (one, two) = (first.probe("client")?, second.probe("client")?);
    becomes(&one, &server, ANSWER, Outcome::is_answered)?;
    becomes(&two, &server, SILENCE, is_silent)?;

    second.set_labels("team: ours")?;
    becomes(&two, &server, ANSWER, Outcome::is_answered)?;
    gives(&one, &server, ANSWER, Outcome::is_answered)?;

    first.set_labels("team: theirs")?;
    becomes(&one, &server, SILENCE, is_silent)?;
    gives(&two, &server, ANSWER, Outcome::is_answered)
}
