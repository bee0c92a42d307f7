//! Names for the numbers in the maps, written to `catalog.json` for the CLI: so that it can explain what it finds
//! with the agent dead.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_common::policy::Direction;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClassId, PeerId, RuleId, ServiceId, SetId},
    model::{
        ObjectName, Protocol,
        policy::{Peers, PolicyPort, Ports},
    },
    state::{
        ClusterState,
        compiled::{ports::ResolvedPorts, set::PolicySet},
        policies::Rule,
    },
    text,
};

/// Name of the catalog in the runtime directory.
pub const FILE_NAME: &str = "catalog.json";

/// Names for the numbers in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub node_name: String,
    /// Number of the cluster state it was made from.
    pub revision: u64,
    /// Every NetworkPolicy, whether it selects a pod of this node or not.
    pub policies: Vec<PolicyInfo>,
    pub sets: BTreeMap<SetId, SetInfo>,
    /// Sets that no pod has any more. Added by the agent, which remembers them.
    #[serde(default)]
    pub former_sets: BTreeMap<SetId, FormerSet>,
    pub rules: BTreeMap<RuleId, RuleInfo>,
    pub classes: BTreeMap<ClassId, ClassInfo>,
    /// The peers in use, in words.
    pub peers: BTreeMap<PeerId, String>,
    pub services: BTreeMap<ServiceId, ServiceInfo>,
    /// Pods of this node.
    pub endpoints: BTreeMap<IpAddr, EndpointInfo>,
    /// Pods of the whole cluster.
    pub pods: BTreeMap<IpAddr, ObjectName>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    pub name: ObjectName,
    /// The pods it selects, in words.
    pub selects: String,
    /// How many rules it has; `None` when it does not isolate in this direction.
    pub ingress: Option<usize>,
    pub egress: Option<usize>,
}

/// A policy set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetInfo {
    #[serde(with = "direction")]
    pub direction: Direction,
    /// The policies that isolate.
    pub policies: Vec<ObjectName>,
    pub rules: Vec<RuleId>,
    /// What port names stand for in the pods of the set: ingress only.
    pub ports: Vec<NamedPort>,
}

/// A policy set that there was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerSet {
    /// The policies that isolated.
    pub policies: Vec<ObjectName>,
    /// Seconds since the epoch.
    pub until: u64,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    pub policy: ObjectName,
    #[serde(with = "direction")]
    pub direction: Direction,
    /// Position in the policy's list.
    pub index: usize,
    /// In words.
    pub peers_text: String,
    pub ports_text: String,
    /// `None`: anywhere.
    pub peers: Option<Vec<PeerId>>,
    /// `None`: every port of every protocol.
    pub ports: Option<Vec<PolicyPort>>,
}

/// A class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassInfo {
    pub kind: ClassKind,
    /// The selectors or the `ipBlock`s that it matches.
    pub peers: Vec<PeerId>,
    /// What port names stand for in its pods.
    pub ports: Vec<NamedPort>,
}

/// What has the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassKind {
    Pods,
    Addresses,
}

/// A port name and its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub numbers: BTreeSet<u16>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    pub service: ObjectName,
    pub port_name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    pub pod: ObjectName,
    pub host_ifname: String,
    pub container_id: String,
}

/// Makes the catalog. Costs as much as the state is large: to be made when it is asked for or the state is at rest.
#[must_use]
pub fn catalog(state: &ClusterState, node_name: &str) -> Catalog {
    let compiled = &state.compiled;
    let mut catalog = Catalog {
        node_name: node_name.to_owned(),
        revision: state.revision(),
        peers: compiled.peers().map(|(id, peer)| (id, text::peer(peer))).collect(),
        ..Catalog::default()
    };
    for policy in state.policies() {
        catalog.policies.push(PolicyInfo {
            name: policy.name.clone(),
            selects: match text::selector(&policy.pod_selector) {
                all if all.is_empty() => "all pods".to_owned(),
                some => some,
            },
            ingress: policy.ingress.as_ref().map(Vec::len),
            egress: policy.egress.as_ref().map(Vec::len),
        });
    }
    for (id, set) in compiled.sets() {
        add_set(id, set, state, &mut catalog);
    }
    for id in compiled.classes() {
        if let Some(view) = compiled.class(id) {
            let kind = if view.ports.is_some() { ClassKind::Pods } else { ClassKind::Addresses };
            let ports = view.ports.map(named_ports).unwrap_or_default();
            catalog.classes.insert(id, ClassInfo { kind, peers: view.peers.to_vec(), ports });
        }
    }
    for (id, service, port) in state.services.ports() {
        catalog.services.insert(
            id,
            ServiceInfo {
                service: service.name.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
            },
        );
    }
    for endpoint in state.endpoints() {
        for addr in &endpoint.ips {
            catalog.endpoints.insert(
                *addr,
                EndpointInfo {
                    pod: endpoint.pod.clone(),
                    host_ifname: endpoint.host_ifname.clone(),
                    container_id: endpoint.attachment.container_id.clone(),
                },
            );
        }
    }
    for addr in state.workloads.peer_addresses() {
        if let Some(pod) = state.workloads.peer_at(addr) {
            catalog.pods.insert(addr, ObjectName::clone(pod));
        }
    }
    catalog
}

fn add_set(id: SetId, set: &PolicySet, state: &ClusterState, catalog: &mut Catalog) {
    let mut rules = Vec::new();
    for list in &set.policies {
        for (index, rule) in list.rules.iter().enumerate() {
            rules.push(rule.id);
            catalog.rules.insert(rule.id, rule_info(&list.policy, set.direction, index, rule, state));
        }
    }
    let policies = set.policies.iter().map(|list| list.policy.clone()).collect();
    let info = SetInfo { direction: set.direction, policies, rules, ports: named_ports(&set.ports) };
    catalog.sets.insert(id, info);
}

fn rule_info(
    policy: &ObjectName,
    direction: Direction,
    index: usize,
    rule: &Rule,
    state: &ClusterState,
) -> RuleInfo {
    RuleInfo {
        policy: policy.clone(),
        direction,
        index,
        peers_text: text::peers(&rule.body.peers),
        ports_text: text::ports(&rule.body.ports),
        peers: match &rule.body.peers {
            Peers::Any => None,
            Peers::OneOf(peers) => {
                Some(peers.iter().filter_map(|peer| state.compiled.peer_id(peer)).collect())
            }
        },
        ports: match &rule.body.ports {
            Ports::Any => None,
            Ports::OneOf(ports) => Some(ports.clone()),
        },
    }
}

fn named_ports(ports: &ResolvedPorts) -> Vec<NamedPort> {
    let named = |((name, protocol), numbers): (&(String, Protocol), &BTreeSet<u16>)| NamedPort {
        name: name.clone(),
        protocol: *protocol,
        numbers: numbers.clone(),
    };
    ports.iter().map(named).collect()
}

/// Writes a direction as a word.
mod direction {
    use dataplane_common::policy::Direction;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Word {
        Ingress,
        Egress,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
        let word = match direction {
            Direction::Ingress => Word::Ingress,
            Direction::Egress => Word::Egress,
        };
        word.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Direction, D::Error> {
        Word::deserialize(deserializer).map(|word| match word {
            Word::Ingress => Direction::Ingress,
            Word::Egress => Direction::Egress,
        })
    }
}
