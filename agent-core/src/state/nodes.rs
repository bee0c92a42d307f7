//! Nodes and the pod CIDRs they claim.
use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::Changed;
use crate::{model::node::Node, update::Change};

#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    nodes: BTreeMap<String, Node>,
    claims: BTreeSet<(IpNetwork, String)>,
}

impl Nodes {
    pub(crate) fn apply(&mut self, change: Change<Node, String>, changed: &mut Changed) -> bool {
        let (name, new) = match change {
            Change::Apply(node) => (node.name.clone(), Some(node)),
            Change::Delete(name) => (name, None),
        };
        if self.nodes.get(&name) == new.as_ref() {
            return false;
        }
        if let Some(old) = self.nodes.remove(&name) {
            for cidr in old.pod_cidrs {
                self.claims.remove(&(cidr, name.clone()));
                changed.routes.insert(cidr);
            }
        }
        if let Some(node) = new {
            for cidr in &node.pod_cidrs {
                self.claims.insert((*cidr, name.clone()));
                changed.routes.insert(*cidr);
            }
            self.nodes.insert(name, node);
        }
        true
    }

    /// The nodes that claim a pod CIDR, by name.
    pub(crate) fn claimants(&self, cidr: IpNetwork) -> impl Iterator<Item = &Node> {
        self.claims
            .range((cidr, String::new())..)
            .take_while(move |(claimed, _)| *claimed == cidr)
            .filter_map(|(_, name)| self.nodes.get(name))
    }

    /// Every pod CIDR that is claimed.
    pub(crate) fn cidrs(&self) -> BTreeSet<IpNetwork> {
        self.claims.iter().map(|(cidr, _)| *cidr).collect()
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }
}
