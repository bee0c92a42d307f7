//! Why a policy set allows or denies, in the terms of the policies it was made from.
use std::fmt;

use crate::{
    catalog::{Catalog, ClassInfo, ClassKind, NamedPort, RuleInfo, SetInfo},
    ids::{ClassId, PeerId, RuleId, SetId},
    model::{
        ObjectName, Protocol,
        policy::{PolicyPort, PortMatch},
    },
};

/// Why a policy set allows or denies a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The policies that isolate the pod.
    pub isolated_by: Vec<ObjectName>,
    /// The rule that allows the flow, or came nearest to it. `None`: there is no rule at all.
    pub nearest: Option<Nearest>,
}

/// A rule, and how far it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    pub rule: RuleId,
    pub info: RuleInfo,
    pub peer_matches: bool,
    pub port_matches: bool,
}

impl Explanation {
    /// Whether a rule allows the flow.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.nearest.as_ref().is_some_and(|nearest| nearest.peer_matches && nearest.port_matches)
    }
}

/// Explains how a policy set judges a peer of these classes; `None` when the catalog does not know the set.
///
/// Of several rules that deny, one that names the peer and not the port is nearer than one that names the port and
/// not the peer; of two equals, the first.
#[must_use]
pub fn nearest(
    catalog: &Catalog,
    set: SetId,
    classes: &[ClassId],
    protocol: u8,
    port: u16,
) -> Option<Explanation> {
    let set = catalog.sets.get(&set)?;
    let classes: Vec<&ClassInfo> = classes.iter().filter_map(|class| catalog.classes.get(class)).collect();
    let mut best: Option<Nearest> = None;
    for id in &set.rules {
        let Some(info) = catalog.rules.get(id) else { continue };
        let (peer_matches, port_matches) = clauses(set, info, &classes, protocol, port);
        let rank = |peer: bool, port: bool| u8::from(peer) * 2 + u8::from(port);
        let best_rank = best.as_ref().map(|best| rank(best.peer_matches, best.port_matches));
        if best_rank.is_none_or(|best| best < rank(peer_matches, port_matches)) {
            best = Some(Nearest { rule: *id, info: info.clone(), peer_matches, port_matches });
        }
    }
    Some(Explanation { isolated_by: set.policies.clone(), nearest: best })
}

/// Whether a rule's peers match, and whether its ports do: by one and the same peer where one matches.
fn clauses(set: &SetInfo, rule: &RuleInfo, classes: &[&ClassInfo], protocol: u8, port: u16) -> (bool, bool) {
    let pod_class = classes.iter().find(|class| class.kind == ClassKind::Pods);
    let peer_ports = pod_class.map_or(&[] as &[NamedPort], |class| &class.ports);
    let ports_match = |by_pod: bool| {
        let named: &[NamedPort] = match rule.direction {
            dataplane_common::policy::Direction::Ingress => &set.ports,
            dataplane_common::policy::Direction::Egress if by_pod => peer_ports,
            dataplane_common::policy::Direction::Egress => &[],
        };
        let mut ports = rule.ports.iter().flatten();
        rule.ports.is_none() || ports.any(|wanted| port_matches(wanted, named, protocol, port))
    };
    let Some(peers) = &rule.peers else { return (true, ports_match(true)) };
    let names = |class: &&&ClassInfo| peers.iter().any(|peer: &PeerId| class.peers.contains(peer));
    let matched: Vec<_> = classes.iter().filter(names).collect();
    if matched.is_empty() {
        return (false, ports_match(true));
    }
    (true, matched.iter().any(|class| ports_match(class.kind == ClassKind::Pods)))
}

fn port_matches(wanted: &PolicyPort, named: &[NamedPort], protocol: u8, port: u16) -> bool {
    let is_named = |name: &str, protocol: Protocol| {
        let mut found = named.iter().filter(|named| named.name == name && named.protocol == protocol);
        found.any(|named| named.numbers.contains(&port))
    };
    wanted.protocol.number() == protocol
        && match &wanted.port {
            PortMatch::Any => true,
            PortMatch::Range { first, last } => (*first..=*last).contains(&port),
            PortMatch::Named(name) => is_named(name, wanted.protocol),
        }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.isolated_by.iter().map(ToString::to_string).collect();
        match &self.nearest {
            None => write!(f, "isolated by {}, which allow nothing", names.join(", ")),
            Some(nearest) if self.is_allowed() => write!(f, "allowed by {nearest}"),
            Some(nearest) => {
                let failed = match (nearest.peer_matches, nearest.port_matches) {
                    (true, _) => "the port differs",
                    (false, true) => "the peer differs",
                    (false, false) => "peer and port differ",
                };
                write!(f, "isolated by {}; nearest is {nearest}: {failed}", names.join(", "))
            }
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RuleInfo { policy, direction, index, peers_text, ports_text, .. } = &self.info;
        let (name, preposition) = match direction {
            dataplane_common::policy::Direction::Ingress => ("ingress", "from"),
            dataplane_common::policy::Direction::Egress => ("egress", "to"),
        };
        write!(f, "{policy} {name} rule {} ({preposition} {peers_text}, {ports_text})", index + 1)
    }
}
