//! A lane: namespaces x, y and z with pods on both nodes, one Service per pod, one row after the other.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use harness::{
    cluster::{ClusterIps, PodSpec, Protocol, ServiceSpec},
    policy_table::{Labels, Places, PodName, Row, Step},
    probe::{client::Probe, wire::Transport},
    topology::{Pod, Topology},
};

use super::matrix::{Cell, Matrix};

/// The pods of the table and their nodes: every namespace is on both, and so is every pair of a row.
const PODS: [(&str, &str, usize); 8] = [
    ("x", "a", 0),
    ("x", "b", 1),
    ("x", "c", 0),
    ("y", "a", 1),
    ("y", "b", 0),
    ("y", "c", 1),
    ("z", "a", 0),
    ("z", "b", 1),
];
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// What every pod serves.
const PORTS: [(u16, Protocol); 4] =
    [(80, Protocol::Tcp), (81, Protocol::Tcp), (80, Protocol::Udp), (81, Protocol::Udp)];

pub(super) struct Lane<'a> {
    topology: &'a Topology,
    number: usize,
    pods: BTreeMap<PodName, Place>,
}

/// A pod and how to reach it.
struct Place {
    pod: Arc<Pod>,
    /// Translated packet by packet, where the pod's own process is translated at its socket.
    bystander: Probe,
    service: ClusterIps,
}

impl<'a> Lane<'a> {
    pub(super) fn build(topology: &'a Topology, number: usize) -> Result<Self> {
        let mut lane = Self { topology, number, pods: BTreeMap::new() };
        for namespace in NAMESPACES {
            topology.control_plane.apply_namespace(&lane.namespace(namespace), &[])?;
        }
        for (namespace, name, node) in PODS {
            let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
            let namespace = lane.namespace(namespace);
            let spec = PodSpec::new(&namespace, name).label("pod", name).on(node);
            let service = PORTS
                .iter()
                .fold(ServiceSpec::new(&namespace, name).select("pod", name), |service, (port, protocol)| {
                    service.port(*protocol, *port, *port)
                });
            let service = topology.control_plane.apply_service(&service)?;
            let running = topology.add_pod(spec)?;
            for (port, protocol) in PORTS {
                running.probe().listen(transport(protocol), port)?;
            }
            let bystander = topology.bystander(&running)?;
            lane.pods.insert(pod, Place { pod: running, bystander, service });
        }
        Ok(lane)
    }

    /// Runs a row; returns how many cells were probed.
    pub(super) fn run(&self, row: &Row) -> Result<usize> {
        self.reset(row)?;
        self.topology.settle()?;
        let mut cells = self.expect(row, None).context("before any policy")?;
        let mut policies = BTreeSet::new();
        for (index, step) in row.steps.iter().enumerate() {
            for policy in &step.apply {
                let object = policy.object(self)?;
                self.topology.control_plane.apply(&object)?;
                policies.insert((policy.namespace.clone(), policy.name.clone()));
            }
            for name in &step.delete {
                policies.remove(&("x".to_owned(), name.clone()));
                self.topology.control_plane.delete("NetworkPolicy", &self.namespace("x"), name)?;
            }
            for (namespace, labels) in &step.label_namespace {
                self.label_namespace(namespace, labels)?;
            }
            for (pod, labels) in &step.label_pod {
                self.label_pod(pod, labels)?;
            }
            self.topology.settle()?;
            cells += self.expect(row, Some(step)).with_context(|| format!("after step {}", index + 1))?;
        }
        for (namespace, name) in policies {
            self.topology.control_plane.delete("NetworkPolicy", &self.namespace(&namespace), &name)?;
        }
        Ok(cells)
    }

    /// Takes back what the row before changed, and declares the ports of this one.
    fn reset(&self, row: &Row) -> Result<()> {
        for namespace in NAMESPACES {
            self.label_namespace(namespace, &Labels::new())?;
        }
        for (name, Place { pod, .. }) in &self.pods {
            let ports: Vec<_> =
                row.ports.iter().map(|port| (port.name(), port.protocol, port.number)).collect();
            self.topology.control_plane.update_pod(pod.namespace(), pod.name(), |spec, _| {
                spec.labels = Labels::from([("pod".to_owned(), name.name.clone())]);
                spec.ports = ports;
            })?;
        }
        Ok(())
    }

    fn label_namespace(&self, namespace: &str, labels: &Labels) -> Result<()> {
        let labels: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        self.topology.control_plane.apply_namespace(&self.namespace(namespace), &labels)
    }

    fn label_pod(&self, name: &PodName, labels: &Labels) -> Result<()> {
        let pod = self.pod(name);
        self.topology.control_plane.update_pod(pod.namespace(), pod.name(), |spec, _| {
            spec.labels.extend(labels.clone());
        })
    }

    /// Every pair of the row, on every port, by Service and by pod address, in both families. Without a step
    /// everything is open.
    fn expect(&self, row: &Row, step: Option<&Step>) -> Result<usize> {
        let mut matrix = Matrix::default();
        for port in &row.ports {
            let blocked = step.map(|step| row.blocked(step, *port)).transpose()?.unwrap_or_default();
            for (from, to) in row.pairs() {
                let allowed = !blocked.contains(&(from.clone(), to.clone()));
                let (from, to) = (&self.pods[from], &self.pods[to]);
                let server = to.pod.probe().name();
                let cell = |address| Cell { server: server.to_owned(), port: *port, address, allowed };
                for ip in to.pod.ips() {
                    matrix.add(from.pod.probe(), cell(*ip));
                }
                for ip in to.service.both() {
                    matrix.add(from.pod.probe(), cell(ip));
                    matrix.add(&from.bystander, cell(ip));
                }
            }
        }
        matrix.check(row.row)
    }

    fn pod(&self, name: &PodName) -> &Pod {
        &self.pods[name].pod
    }
}

impl Places for Lane<'_> {
    fn namespace(&self, namespace: &str) -> String {
        format!("{namespace}-{}", self.number)
    }

    fn address(&self, pod: &PodName, v6: bool) -> IpAddr {
        self.pod(pod).ip(v6)
    }
}

pub(super) const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}
