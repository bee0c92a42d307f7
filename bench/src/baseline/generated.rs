//! kube-proxy's rules without kube-proxy: generated and restored.
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    rules::Rules,
    service::{self, Service},
    tools::Iptables,
};
use crate::system::{
    Backend,
    routed::{POD_CIDR, RoutedNode},
    services::{ENDPOINTS, ServiceSet},
};

/// Generated rules in a node's namespace.
#[derive(Debug)]
pub(crate) struct Generated {
    backend: Backend,
    services: ServiceSet,
}

impl Generated {
    pub(crate) const fn new(backend: Backend, services: ServiceSet) -> Self {
        Self { backend, services }
    }

    /// Restores all rules; returns how long the program took.
    pub(crate) fn load(&self, node: &RoutedNode) -> Result<Duration> {
        let services = self.all();
        let file = self.write(node, "full.rules", |rules, out| rules.full(&services, out))?;
        self.iptables(node, &lock(node)).restore(&file, &[])
    }

    /// Restores what kube-proxy restores when the endpoints of one service change; returns how long the program took.
    pub(crate) fn change(&self, node: &RoutedNode, service: usize, endpoints: &[usize]) -> Result<Duration> {
        let mut services = self.all();
        let servers: Vec<Ipv4Addr> =
            endpoints.iter().map(|endpoint| RoutedNode::server_addr(*endpoint)).collect();
        let before = std::mem::replace(&mut services[service], service::numbered(service, &servers));
        let file = self.write(node, "partial.rules", |rules, out| {
            rules.partial(&services, &before, &services[service], out)
        })?;
        self.iptables(node, &lock(node)).restore(&file, &["--noflush", "--counters"])
    }

    pub(crate) fn iptables<'a>(&self, node: &'a RoutedNode, lock: &'a PathBuf) -> Iptables<'a> {
        Iptables { backend: self.backend, netns: node.node(), lock }
    }

    fn all(&self) -> Vec<Service> {
        let servers: Vec<Ipv4Addr> = (0..ENDPOINTS).map(RoutedNode::server_addr).collect();
        service::all(self.services, &servers)
    }

    fn write(
        &self,
        node: &RoutedNode,
        name: &str,
        write: impl FnOnce(&Rules<'_>, &mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<PathBuf> {
        let path = node.run().folder().join(name);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let rules = Rules::new(POD_CIDR, self.services.count * ENDPOINTS + 1);
        write(&rules, &mut out)
            .and_then(|()| out.flush())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// The lock of the programs that write to this node.
pub(crate) fn lock(node: &RoutedNode) -> PathBuf {
    node.run().folder().join("xtables.lock")
}
