//! Policy sets: what a group of local pods shares.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use dataplane_common::policy::Direction;

use super::ports::{PortName, ResolvedPorts, prefixes};
use crate::{
    entry::PortPrefix,
    ids::{PeerId, RuleId},
    model::policy::{Peer, Peers, PortMatch, Ports},
    state::policies::RuleList,
};

/// The policies of one direction that isolate a group of pods, and their rules by peer.
#[derive(Clone, Debug)]
pub(crate) struct PolicySet {
    pub(crate) direction: Direction,
    /// By name.
    pub(crate) policies: Vec<Arc<RuleList>>,
    /// The pods' own named ports that the rules use: ingress only.
    pub(crate) ports: ResolvedPorts,
    /// Local pods that use the set. At 0 it lingers until the state is tidied.
    pub(super) endpoints: usize,
    anywhere: Vec<Allow>,
    by_peer: BTreeMap<PeerId, Vec<Allow>>,
}

/// A rule's ports, for one peer.
#[derive(Clone, Debug)]
struct Allow {
    rule: RuleId,
    /// Position of the rule in the set: of two rules with one key, the first one is named.
    order: usize,
    ports: Arc<[PortSpan]>,
}

#[derive(Clone, Debug)]
enum PortSpan {
    Prefix(PortPrefix),
    /// Egress: differs from peer to peer.
    Named(PortName),
}

/// The entries of one set and one class.
pub(crate) type Cell = BTreeMap<PortPrefix, RuleId>;

/// What a class stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassView<'a> {
    pub(crate) peers: &'a [PeerId],
    pub(crate) ports: Option<&'a ResolvedPorts>,
}

/// The text that identifies a set.
pub(crate) fn text(direction: Direction, policies: &[Arc<RuleList>], ports: &ResolvedPorts) -> String {
    let mut text = format!("{}", direction as u8);
    for list in policies {
        let _ = write!(text, ";{}=", list.policy);
        for rule in &list.rules {
            let _ = write!(text, "{},", rule.id);
        }
    }
    for ((name, protocol), numbers) in ports {
        let _ = write!(text, ";{name:?}/{protocol}={numbers:?}");
    }
    text
}

/// The port names that rules use.
pub(crate) fn names(policies: &[Arc<RuleList>]) -> BTreeSet<PortName> {
    let rules = policies.iter().flat_map(|list| &list.rules);
    let ports = rules.filter_map(|rule| match &rule.body.ports {
        Ports::Any => None,
        Ports::OneOf(ports) => Some(ports),
    });
    ports
        .flatten()
        .filter_map(|port| match &port.port {
            PortMatch::Any | PortMatch::Range { .. } => None,
            PortMatch::Named(name) => Some((name.clone(), port.protocol)),
        })
        .collect()
}

impl PolicySet {
    /// Compiles rules; `peer_id` names each distinct peer.
    pub(crate) fn compile(
        direction: Direction,
        policies: Vec<Arc<RuleList>>,
        ports: ResolvedPorts,
        mut peer_id: impl FnMut(&Peer) -> PeerId,
    ) -> Self {
        let mut anywhere = Vec::new();
        let mut by_peer: BTreeMap<PeerId, Vec<Allow>> = BTreeMap::new();
        for (order, rule) in policies.iter().flat_map(|list| &list.rules).enumerate() {
            let spans = spans(direction, &rule.body.ports, &ports);
            if spans.is_empty() {
                continue;
            }
            let allow = Allow { rule: rule.id, order, ports: spans.into() };
            match &rule.body.peers {
                Peers::Any => anywhere.push(allow),
                Peers::OneOf(peers) => {
                    let peers: BTreeSet<_> = peers.iter().collect();
                    for peer in peers {
                        by_peer.entry(peer_id(peer)).or_default().push(allow.clone());
                    }
                }
            }
        }
        Self { direction, policies, ports, endpoints: 0, anywhere, by_peer }
    }

    /// The peers that rules name.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.by_peer.keys().copied()
    }

    /// Whether no local pod uses the set any more.
    pub(crate) const fn is_lingering(&self) -> bool {
        self.endpoints == 0
    }

    /// The entries for what no peer restricts: [`dataplane_common::policy::CLASS_ANY`].
    pub(crate) fn cell_anywhere(&self) -> Cell {
        let mut cell = CellBuilder::default();
        for allow in &self.anywhere {
            cell.add(allow, None);
        }
        cell.finish()
    }

    /// The entries for a class.
    pub(crate) fn cell(&self, class: ClassView<'_>) -> Cell {
        let mut cell = CellBuilder::default();
        for allow in class.peers.iter().filter_map(|peer| self.by_peer.get(peer)).flatten() {
            cell.add(allow, class.ports);
        }
        // A rule for any peer with a named port allows what each pod gives that name; the numbered ports of such
        // rules stand in the entries for anywhere.
        if let Some(ports) = class.ports.filter(|ports| !ports.is_empty()) {
            for allow in &self.anywhere {
                cell.add_named(allow, ports);
            }
        }
        cell.finish()
    }
}

#[derive(Default)]
struct CellBuilder {
    entries: BTreeMap<PortPrefix, (usize, RuleId)>,
}

impl CellBuilder {
    fn add(&mut self, allow: &Allow, resolved: Option<&ResolvedPorts>) {
        for span in &*allow.ports {
            if let PortSpan::Prefix(prefix) = span {
                self.insert(*prefix, allow);
            }
        }
        if let Some(resolved) = resolved {
            self.add_named(allow, resolved);
        }
    }

    fn add_named(&mut self, allow: &Allow, resolved: &ResolvedPorts) {
        for span in &*allow.ports {
            let PortSpan::Named(name) = span else { continue };
            for number in resolved.get(name).into_iter().flatten() {
                for prefix in prefixes(name.1, *number, *number) {
                    self.insert(prefix, allow);
                }
            }
        }
    }

    fn insert(&mut self, prefix: PortPrefix, allow: &Allow) {
        let entry = self.entries.entry(prefix).or_insert((allow.order, allow.rule));
        *entry = (*entry).min((allow.order, allow.rule));
    }

    fn finish(self) -> Cell {
        self.entries.into_iter().map(|(prefix, (_, rule))| (prefix, rule)).collect()
    }
}

fn spans(direction: Direction, ports: &Ports, resolved: &ResolvedPorts) -> Vec<PortSpan> {
    let items = match ports {
        Ports::Any => return vec![PortSpan::Prefix(PortPrefix::EVERYTHING)],
        Ports::OneOf(items) => items,
    };
    let mut spans = Vec::new();
    for item in items {
        let protocol = item.protocol;
        match (&item.port, direction) {
            (PortMatch::Any, _) => spans.push(PortSpan::Prefix(PortPrefix::protocol(protocol.number()))),
            (PortMatch::Range { first, last }, _) => {
                spans.extend(prefixes(protocol, *first, *last).map(PortSpan::Prefix));
            }
            (PortMatch::Named(name), Direction::Egress) => {
                spans.push(PortSpan::Named((name.clone(), protocol)));
            }
            (PortMatch::Named(name), Direction::Ingress) => {
                let numbers = resolved.get(&(name.clone(), protocol)).into_iter().flatten();
                spans.extend(numbers.flat_map(|n| prefixes(protocol, *n, *n)).map(PortSpan::Prefix));
            }
        }
    }
    spans
}
