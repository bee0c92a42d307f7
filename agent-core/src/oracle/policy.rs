//! What NetworkPolicies allow.
use std::net::IpAddr;

use dataplane_common::policy::Direction;

use crate::{
    model::{
        ObjectName,
        endpoint::Endpoint,
        policy::{NamespaceMatch, NetworkPolicy, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports},
        workload::Pod,
    },
    state::ClusterState,
};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pod, another node, or something outside the cluster.
    Address(IpAddr),
    /// A process of this node, with whichever of the node's addresses.
    OwnNode(IpAddr),
}

/// A flow, judged at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// At the source.
    pub egress: Side,
    /// At the destination.
    pub ingress: Side,
}

/// A flow, judged at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The pod at this end.
    pub pod: Option<ObjectName>,
    /// Whether the pod has an interface on this node, so that this node enforces the judgement.
    pub is_local: bool,
    pub outcome: Outcome,
}

/// Why one end lets a flow pass, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No pod that policies could select.
    NoSubject,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// Always allowed: a pod to itself, this node to its pods.
    Exempt,
    /// By these rules.
    Allowed(Vec<RuleRef>),
    /// These policies isolate the pod and no rule matches.
    Denied(Vec<ObjectName>),
    /// An interface of this node for which nobody vouches: its pod is not known, or it was isolated and neither its
    /// object nor the policy is there any more. Nothing passes but this node's own.
    Unknown,
}

/// Names a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    pub policy: ObjectName,
    pub direction: Direction,
    pub index: usize,
}

impl Judgement {
    /// Whether the cluster as a whole allows the flow.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.denied_by().is_none()
    }

    /// The end that denies the flow; the source is asked first.
    #[must_use]
    pub const fn denied_by(&self) -> Option<Direction> {
        if !self.egress.outcome.is_allowed() {
            Some(Direction::Egress)
        } else if !self.ingress.outcome.is_allowed() {
            Some(Direction::Ingress)
        } else {
            None
        }
    }

    /// The end on this node that denies the flow; ends on other nodes are theirs to enforce.
    #[must_use]
    pub const fn denied_here_by(&self) -> Option<Direction> {
        if self.egress.is_local && !self.egress.outcome.is_allowed() {
            Some(Direction::Egress)
        } else if self.ingress.is_local && !self.ingress.outcome.is_allowed() {
            Some(Direction::Ingress)
        } else {
            None
        }
    }
}

impl Outcome {
    /// Whether this end lets the flow pass.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        match self {
            Self::NoSubject | Self::NotIsolated | Self::Exempt | Self::Allowed(_) => true,
            Self::Denied(_) | Self::Unknown => false,
        }
    }
}

impl Subject {
    /// The address.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        match self {
            Self::Address(addr) | Self::OwnNode(addr) => addr,
        }
    }
}

/// Judges the first packet of a flow, after service translation. `port` is the destination's; protocols without
/// ports ignore it.
#[must_use]
pub fn judge(
    state: &ClusterState,
    source: Subject,
    destination: Subject,
    protocol: u8,
    port: u16,
) -> Judgement {
    let flow = Flow { state, source: source.addr(), destination: destination.addr(), protocol, port };
    let mut judgement = Judgement {
        egress: flow.side(Direction::Egress, source),
        ingress: flow.side(Direction::Ingress, destination),
    };
    let from_own_node = matches!(source, Subject::OwnNode(_));
    if source == destination && judgement.egress.pod.is_some() {
        judgement.egress.outcome = Outcome::Exempt;
        judgement.ingress.outcome = Outcome::Exempt;
    } else if from_own_node && judgement.ingress.pod.is_some() {
        judgement.ingress.outcome = Outcome::Exempt;
    }
    judgement
}

struct Flow<'a> {
    state: &'a ClusterState,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: u16,
}

impl Flow<'_> {
    fn side(&self, direction: Direction, subject: Subject) -> Side {
        let nobody = |is_local, outcome| Side { pod: None, is_local, outcome };
        let Subject::Address(addr) = subject else { return nobody(false, Outcome::NoSubject) };
        let (pod, is_local) = match endpoint_at(self.state, addr) {
            Some(endpoint) => match pod_of(self.state, endpoint).or_else(|| departed(self.state, endpoint)) {
                Some(pod) => (Some(pod), true),
                None => return nobody(true, Outcome::Unknown),
            },
            None => (peer_at(self.state, addr), false),
        };
        let Some(pod) = pod else { return nobody(is_local, Outcome::NoSubject) };
        let mut outcome = self.outcome(direction, pod);
        if outcome == Outcome::NotIsolated && is_local && was_isolated(self.state, addr, direction) {
            outcome = Outcome::Unknown;
        }
        Side { pod: Some(pod.name.clone()), is_local, outcome }
    }

    fn outcome(&self, direction: Direction, subject: &Pod) -> Outcome {
        if subject.host_network {
            return Outcome::NoSubject;
        }
        let isolating: Vec<(&NetworkPolicy, &Vec<PolicyRule>)> = self
            .state
            .policies()
            .filter(|policy| policy.name.namespace == subject.name.namespace)
            .filter(|policy| policy.pod_selector.matches(&subject.labels))
            .filter_map(|policy| rules(policy, direction).map(|rules| (policy, rules)))
            .collect();
        if isolating.is_empty() {
            return Outcome::NotIsolated;
        }
        let mut allowing = Vec::new();
        for (policy, rules) in &isolating {
            for (index, rule) in rules.iter().enumerate() {
                if self.matches(direction, subject, rule) {
                    allowing.push(RuleRef { policy: policy.name.clone(), direction, index });
                }
            }
        }
        if allowing.is_empty() {
            return Outcome::Denied(isolating.iter().map(|(policy, _)| policy.name.clone()).collect());
        }
        Outcome::Allowed(allowing)
    }

    fn matches(&self, direction: Direction, subject: &Pod, rule: &PolicyRule) -> bool {
        let other = match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        };
        let other_pod = peer_at(self.state, other);
        // The pod whose ports give names their numbers. An address range gives none.
        let named = |by_pod: bool| match direction {
            Direction::Ingress => Some(subject),
            Direction::Egress => other_pod.filter(|_| by_pod),
        };
        match &rule.peers {
            Peers::Any => self.matches_ports(&rule.ports, named(true)),
            Peers::OneOf(peers) => peers.iter().any(|peer| match peer {
                Peer::Pods { namespaces, pods } => {
                    other_pod.is_some_and(|pod| {
                        pods.matches(&pod.labels) && self.matches_namespace(namespaces, &pod.name.namespace)
                    }) && self.matches_ports(&rule.ports, named(true))
                }
                Peer::IpBlock(block) => {
                    block.contains(other) && self.matches_ports(&rule.ports, named(false))
                }
            }),
        }
    }

    fn matches_namespace(&self, wanted: &NamespaceMatch, name: &str) -> bool {
        match wanted {
            NamespaceMatch::Named(wanted) => wanted == name,
            NamespaceMatch::Selected(selector) => {
                let mut namespaces = self.state.namespaces();
                namespaces.any(|namespace| namespace.name == name && selector.matches(&namespace.labels))
            }
        }
    }

    fn matches_ports(&self, ports: &Ports, named: Option<&Pod>) -> bool {
        match ports {
            Ports::Any => true,
            Ports::OneOf(ports) => ports.iter().any(|port| self.matches_port(port, named)),
        }
    }

    fn matches_port(&self, wanted: &PolicyPort, named: Option<&Pod>) -> bool {
        if wanted.protocol.number() != self.protocol {
            return false;
        }
        match &wanted.port {
            PortMatch::Any => true,
            PortMatch::Range { first, last } => (*first..=*last).contains(&self.port),
            PortMatch::Named(name) => named.is_some_and(|pod| {
                pod.ports.iter().any(|port| {
                    port.name == *name && port.protocol == wanted.protocol && port.port == self.port
                })
            }),
        }
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

fn endpoint_at(state: &ClusterState, addr: IpAddr) -> Option<&Endpoint> {
    state.endpoints().filter(|endpoint| endpoint.ips.contains(&addr)).last()
}

fn pod_of<'a>(state: &'a ClusterState, endpoint: &Endpoint) -> Option<&'a Pod> {
    let pod = state.pods().find(|pod| pod.name == endpoint.pod)?;
    let departed = departed(state, endpoint).filter(|_| endpoint.pod_uid.is_empty());
    let uid = departed.map_or(&endpoint.pod_uid, |pod| &pod.uid);
    pod.has_uid(uid).then_some(pod)
}

/// The pod that an endpoint had when its object went.
fn departed<'a>(state: &'a ClusterState, endpoint: &Endpoint) -> Option<&'a Pod> {
    state.departed().find(|departed| departed.attachment == endpoint.attachment).map(|departed| &departed.pod)
}

/// Whether the pod at an address has departed, and a policy isolated it.
fn was_isolated(state: &ClusterState, addr: IpAddr, direction: Direction) -> bool {
    let Some(endpoint) = endpoint_at(state, addr) else { return false };
    state.departed().any(|departed| {
        let isolated = match direction {
            Direction::Ingress => departed.isolated_ingress,
            Direction::Egress => departed.isolated_egress,
        };
        isolated && departed.attachment == endpoint.attachment
    })
}

/// The pod that an address stands for when policies name it as a peer.
fn peer_at(state: &ClusterState, addr: IpAddr) -> Option<&Pod> {
    let is_peer = |pod: &&Pod| !pod.host_network && !pod.completed;
    if let Some(endpoint) = endpoint_at(state, addr) {
        let pod = pod_of(state, endpoint)?;
        if is_peer(&pod) {
            return Some(pod);
        }
    }
    state.pods().filter(is_peer).find(|pod| pod.ips.contains(&addr))
}
