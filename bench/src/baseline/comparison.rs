//! Holds the generated rules against those of the real kube-proxy.
use std::{fs::File, io::Write as _, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use harness::eventually::eventually;
use serde_json::json;

use super::{
    control_plane,
    generated::lock,
    real::{Cluster, Real},
    rules::Rules,
    saved::Saved,
    service::{self, Protocol, Service},
    tools::{self, Iptables},
};
use crate::{
    interrupt,
    system::{
        Backend, Hygiene, objects,
        routed::{POD_CIDR, RoutedNode},
        services::{ENDPOINTS, SERVER_PORT, ServiceSet},
    },
};

/// How long kube-proxy may take to agree.
const PATIENCE: Duration = Duration::from_mins(2);

/// Differences that are worth showing; more say the same.
const SHOWN: usize = 10;

/// Compares rule by rule, with both kinds of iptables: after a start, and after one service has changed.
pub(crate) fn compare(services: ServiceSet) -> Result<()> {
    let servers: Vec<Ipv4Addr> = (0..ENDPOINTS).map(RoutedNode::server_addr).collect();
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        tools::require(backend)?;
        let cluster = Cluster::for_routed(services)?;
        add_variants(&cluster, &servers)?;
        let mut known = service::all(services, &servers);
        known.extend([control_plane::service(), without_backends(), with_affinity(&servers)]);
        let backends = known.iter().map(|service| service.backends.len()).sum();
        let rules = Rules::new(POD_CIDR, backends);

        let real = RoutedNode::build(Hygiene::Clean)?;
        let proxy = Real::start(backend, services, &real)?;
        let generated = RoutedNode::build(Hygiene::Clean)?;
        restore(backend, &generated, &[], |out| rules.full(&known, out))?;
        let count = agree(backend, &proxy, &real, &generated)?;
        println!("{backend:?}, {} services: {count} rules, all equal", known.len());

        let changed = services.middle();
        proxy.set_endpoints(changed, &[1])?;
        let before = std::mem::replace(&mut known[changed], service::numbered(changed, &servers[1..2]));
        restore(backend, &generated, &["--noflush"], |out| {
            rules.partial(&known, &before, &known[changed], out)
        })?;
        let count = agree(backend, &proxy, &real, &generated)?;
        println!("{backend:?}, after service {changed} lost all but one endpoint: {count} rules, all equal");
        let all: Vec<usize> = (0..ENDPOINTS).collect();
        proxy.set_endpoints(changed, &all)?;
    }
    Ok(())
}

/// Waits until the rules in both namespaces are equal; returns how many there are.
fn agree(backend: Backend, proxy: &Real, real: &RoutedNode, generated: &RoutedNode) -> Result<usize> {
    let wanted = Saved::parse(&save(backend, generated)?);
    ensure!(wanted.rules() > 0, "no rules were generated");
    eventually(format!("kube-proxy with {backend:?} has the generated rules"), PATIENCE, || {
        if let Err(ended) = interrupt::check().and_then(|()| proxy.require_running()) {
            // Final: no later attempt can succeed.
            return Ok(Err(ended));
        }
        let found = wanted.differences(&Saved::parse(&save(backend, real)?));
        if !found.is_empty() {
            bail!(
                "{} differences (generated | real):\n{}",
                found.len(),
                found[..found.len().min(SHOWN)].join("\n")
            );
        }
        Ok(Ok(()))
    })??;
    Ok(wanted.rules())
}

fn save(backend: Backend, node: &RoutedNode) -> Result<String> {
    Iptables { backend, netns: node.node(), lock: &lock(node) }.save()
}

fn restore(
    backend: Backend,
    node: &RoutedNode,
    arguments: &[&str],
    write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
) -> Result<()> {
    let mut text = Vec::new();
    write(&mut text).context("write rules")?;
    let path = node.run().folder().join("compared.rules");
    File::create(&path)
        .and_then(|mut file| file.write_all(&text))
        .with_context(|| format!("write {}", path.display()))?;
    let lock = lock(node);
    Iptables { backend, netns: node.node(), lock: &lock }.restore(&path, arguments).map(drop)
}

const NO_BACKENDS: &str = "no-backends";
const AFFINITY: &str = "affinity";

/// A service of the API server that kube-proxy refuses for want of backends.
fn without_backends() -> Service {
    Service {
        name: NO_BACKENDS.to_owned(),
        cluster_ip: Ipv4Addr::new(10, 99, 0, 1),
        backends: Vec::new(),
        ..service::numbered(0, &[])
    }
}

/// A service whose clients stay with their backends.
fn with_affinity(servers: &[Ipv4Addr]) -> Service {
    Service {
        name: AFFINITY.to_owned(),
        cluster_ip: Ipv4Addr::new(10, 99, 0, 2),
        affinity: Some(600),
        protocol: Protocol::Tcp,
        ..service::numbered(0, servers)
    }
}

/// Tells the API server of both.
fn add_variants(cluster: &Cluster, servers: &[Ipv4Addr]) -> Result<()> {
    let api = cluster.control_plane().api();
    api.ensure(&objects::service_object(NO_BACKENDS, Ipv4Addr::new(10, 99, 0, 1), "TCP", 80, SERVER_PORT))?;
    let mut affine = objects::service_object(AFFINITY, Ipv4Addr::new(10, 99, 0, 2), "TCP", 80, SERVER_PORT);
    affine["spec"]["sessionAffinity"] = json!("ClientIP");
    affine["spec"]["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 600 } });
    api.ensure(&affine)?;
    api.ensure(&objects::slice_object(AFFINITY, "TCP", SERVER_PORT, servers)).map(drop)
}
