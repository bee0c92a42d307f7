//! What the policies of this node's pods compile to: policy sets, classes of pods, classes of addresses.
//!
//! Kept up to date with each update, at the cost of what changed: a pod is matched against the peers in use; a new
//! peer is matched against the pods; nothing else is looked at again.
//!
//! # Transitions
//! While the maps change from one state to the next, a flow that both allow must never be denied. Endpoints and
//! addresses flip one at a time, so an old set can meet a new class. Therefore a set that no local pod uses any
//! more *lingers* with its peers, until [`Compiled::tidy`]: classes name the peers of old and new sets alike, and
//! entries are written for every set that an endpoint in the maps may still use.
mod blocks;
mod classes;
mod peers;
pub(crate) mod ports;
pub(crate) mod set;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use dataplane_common::policy::Direction;
use ipnetwork::IpNetwork;

use self::{
    blocks::Blocks,
    classes::Classes,
    peers::PeerTable,
    ports::{PortName, resolve},
    set::{ClassView, PolicySet},
    settle::Unsettled,
};
use super::{
    Changed,
    policies::{Policies, PolicyChange, Record, RuleList},
    workloads::{NamespaceChange, Workloads},
};
use crate::{
    ids::{ClassId, IdTable, PeerId, SetId},
    model::{
        ObjectName,
        endpoint::{AttachmentId, Endpoint},
        policy::Peer,
        workload::Pod,
    },
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    pub(super) rule_ids: IdTable,
    set_ids: IdTable,
    class_ids: IdTable,
    sets: HashMap<SetId, PolicySet>,
    lingering: BTreeSet<SetId>,
    /// The sets of each endpoint.
    selected: BTreeMap<AttachmentId, Selected>,
    /// Endpoints of an earlier run whose pod was not known when the first lists were complete.
    unclaimed: BTreeSet<AttachmentId>,
    peers: PeerTable,
    /// Named ports of egress rules, by the number of sets that use them.
    names: BTreeMap<PortName, usize>,
    classes: Classes,
    blocks: Blocks,
    unsettled: Unsettled,
}

/// The policy sets of an endpoint. `None`: not isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) ingress: Option<SetId>,
    pub(crate) egress: Option<SetId>,
}

impl Selected {
    /// Nobody can say which policies select the endpoint.
    const CLOSED: Self = Self { ingress: Some(SetId::DENY_ALL), egress: Some(SetId::DENY_ALL) };
}

impl Compiled {
    /// Compiles everything, once, when the first lists are complete.
    pub(super) fn build(&mut self, workloads: &Workloads, policies: &Policies) {
        let mut changed = Changed::default();
        for endpoint in workloads.endpoints() {
            self.select(&endpoint.attachment, workloads, policies, &mut changed);
            if workloads.subject(endpoint).is_none() {
                self.unclaimed.insert(endpoint.attachment.clone());
            }
        }
        self.unsettled.new_peers.clear();
        self.unsettled.names.clear();
        for (name, _) in workloads.pods() {
            self.classify(name, workloads, &mut changed);
        }
        self.settle(workloads, &mut changed);
    }

    /// A pod changed: its class, and its sets when it is local.
    pub(super) fn follow_pod(
        &mut self,
        name: Arc<ObjectName>,
        workloads: &Workloads,
        policies: &Policies,
        changed: &mut Changed,
    ) {
        for endpoint in workloads.endpoints_of(&name) {
            self.select(&endpoint.attachment, workloads, policies, changed);
        }
        self.unsettled.pods.insert(name);
        self.settle(workloads, changed);
    }

    /// A namespace changed: the classes of its pods.
    pub(super) fn follow_namespace(
        &mut self,
        change: &NamespaceChange,
        workloads: &Workloads,
        changed: &mut Changed,
    ) {
        if self.peers.distinguish(change.old.as_ref(), change.new.as_ref()) {
            let pods = workloads.pods_in(&change.name).map(|(name, _)| Arc::clone(name));
            self.unsettled.pods.extend(pods);
            self.settle(workloads, changed);
        }
    }

    /// A policy changed: the sets of the local pods that it selected or selects. Others cost next to nothing:
    /// a node reads the policies of all pods.
    pub(super) fn follow_policy(
        &mut self,
        change: &PolicyChange,
        workloads: &Workloads,
        policies: &Policies,
        changed: &mut Changed,
    ) {
        let concerned =
            |endpoint: &&Endpoint| workloads.subject(endpoint).is_some_and(|pod| change.concerns(pod));
        for endpoint in workloads.endpoints().filter(concerned) {
            self.select(&endpoint.attachment, workloads, policies, changed);
        }
        self.settle(workloads, changed);
    }

    /// An endpoint changed: its sets.
    pub(super) fn follow_endpoint(
        &mut self,
        attachment: &AttachmentId,
        workloads: &Workloads,
        policies: &Policies,
        changed: &mut Changed,
    ) {
        self.select(attachment, workloads, policies, changed);
        self.settle(workloads, changed);
    }

    /// Forgets the sets that no local pod uses any more, and what only they needed.
    pub(super) fn tidy(&mut self, workloads: &Workloads, changed: &mut Changed) {
        for id in mem::take(&mut self.lingering) {
            let Some(set) = self.sets.remove(&id) else { continue };
            changed.sets.insert(id);
            self.set_ids.release(id.0);
            for peer in set.peers() {
                match self.peers.release(peer) {
                    Some(Peer::Pods { .. }) => {
                        self.unsettled.gone_peers.insert(peer);
                    }
                    Some(Peer::IpBlock(_)) => {
                        self.blocks.remove(peer);
                        self.unsettled.blocks = true;
                    }
                    None => {}
                }
            }
            for list in &set.policies {
                list.release(&mut self.rule_ids);
            }
            if set.direction == Direction::Egress {
                for name in set::names(&set.policies) {
                    self.release_name(name);
                }
            }
        }
        self.settle(workloads, changed);
    }

    fn release_name(&mut self, name: PortName) {
        let Some(sets) = self.names.get_mut(&name) else { return };
        *sets -= 1;
        if *sets == 0 {
            self.names.remove(&name);
            self.unsettled.names.insert(name);
        }
    }

    /// Finds the policies that isolate an endpoint's pod. Without a pod it is closed; and what isolated a pod whose
    /// object is gone leaves it closed.
    fn select(
        &mut self,
        attachment: &AttachmentId,
        workloads: &Workloads,
        policies: &Policies,
        changed: &mut Changed,
    ) {
        let endpoint = workloads.endpoint(attachment);
        let new = endpoint.map(|endpoint| {
            let Some(pod) = workloads.subject(endpoint) else { return Selected::CLOSED };
            let selecting = if pod.host_network { Vec::new() } else { policies.selecting(pod) };
            let (ingress, egress) = workloads
                .departed(attachment)
                .map_or((false, false), |departed| (departed.isolated_ingress, departed.isolated_egress));
            let mut set = |direction, stays_closed: bool| {
                let set = self.acquire_set(direction, pod, &selecting, changed);
                set.or_else(|| stays_closed.then_some(SetId::DENY_ALL))
            };
            Selected { ingress: set(Direction::Ingress, ingress), egress: set(Direction::Egress, egress) }
        });
        let old = if let Some(new) = new {
            self.selected.insert(attachment.clone(), new)
        } else {
            self.unclaimed.remove(attachment);
            self.selected.remove(attachment)
        };
        if old != new {
            changed.endpoints.extend(endpoint.into_iter().flat_map(|endpoint| &endpoint.ips));
        }
        // Given back last, so that a set that stays is not touched.
        for id in old.into_iter().flat_map(|old| [old.ingress, old.egress]).flatten() {
            if let Some(set) = self.sets.get_mut(&id) {
                set.endpoints -= 1;
                if set.endpoints == 0 {
                    self.lingering.insert(id);
                }
            }
        }
    }

    fn acquire_set(
        &mut self,
        direction: Direction,
        pod: &Pod,
        selecting: &[&Record],
        changed: &mut Changed,
    ) -> Option<SetId> {
        let rules = selecting.iter().filter_map(|record| record.rules(direction).map(Arc::clone));
        let selecting: Vec<Arc<RuleList>> = rules.collect();
        if selecting.is_empty() {
            return None;
        }
        let names = set::names(&selecting);
        let ports = match direction {
            Direction::Ingress => resolve(pod, |name| names.contains(name)),
            Direction::Egress => BTreeMap::new(),
        };
        let text = set::text(direction, &selecting, &ports);
        let id = if let Some(id) = self.set_ids.find(&text) {
            SetId(id)
        } else {
            for list in &selecting {
                list.retain(&mut self.rule_ids);
            }
            if direction == Direction::Egress {
                for name in names {
                    let sets = self.names.entry(name.clone()).or_default();
                    *sets += 1;
                    if *sets == 1 {
                        self.unsettled.names.insert(name);
                    }
                }
            }
            let id = SetId(self.set_ids.acquire(&text));
            let set = self.compile(direction, selecting, ports);
            self.sets.insert(id, set);
            changed.sets.insert(id);
            id
        };
        if self.lingering.remove(&id) {
            // Classes that appeared while it lingered may have no entries for it.
            changed.sets.insert(id);
        }
        if let Some(set) = self.sets.get_mut(&id) {
            set.endpoints += 1;
        }
        Some(id)
    }

    /// Compiles a set. It uses each of its peers once.
    fn compile(
        &mut self,
        direction: Direction,
        policies: Vec<Arc<RuleList>>,
        ports: ports::ResolvedPorts,
    ) -> PolicySet {
        let Self { peers, blocks, unsettled, .. } = self;
        let mut used = BTreeSet::new();
        PolicySet::compile(direction, policies, ports, |peer| {
            let (id, first) = peers.acquire(peer);
            if !used.insert(id) {
                peers.release(id);
            } else if first {
                match peer {
                    Peer::Pods { .. } => {
                        unsettled.new_peers.insert(id);
                    }
                    Peer::IpBlock(block) => {
                        blocks.insert(id, block.clone());
                        unsettled.blocks = true;
                    }
                }
            }
            id
        })
    }

    pub(crate) fn selected(&self, attachment: &AttachmentId) -> Option<Selected> {
        self.selected.get(attachment).copied()
    }

    /// Which directions of an endpoint are isolated: ingress, egress.
    pub(super) fn isolation(&self, attachment: &AttachmentId) -> (bool, bool) {
        let selected = self.selected(attachment).unwrap_or_default();
        (selected.ingress.is_some(), selected.egress.is_some())
    }

    /// Whether an endpoint of an earlier run had no pod when this one began.
    pub(crate) fn is_unclaimed(&self, attachment: &AttachmentId) -> bool {
        self.unclaimed.contains(attachment)
    }

    pub(crate) fn set(&self, id: SetId) -> Option<&PolicySet> {
        self.sets.get(&id)
    }

    /// Every set, lingering ones included.
    pub(crate) fn sets(&self) -> impl Iterator<Item = (SetId, &PolicySet)> {
        self.sets.iter().map(|(id, set)| (*id, set))
    }

    pub(crate) fn class_of(&self, pod: &ObjectName) -> Option<ClassId> {
        self.classes.class_of(pod)
    }

    pub(crate) fn class(&self, id: ClassId) -> Option<ClassView<'_>> {
        self.classes.view(id).or_else(|| self.blocks.view(id))
    }

    /// Every class, of pods and of addresses.
    pub(crate) fn classes(&self) -> impl Iterator<Item = ClassId> {
        self.classes.ids().chain(self.blocks.ids())
    }

    pub(crate) fn trie(&self) -> &BTreeMap<IpNetwork, ClassId> {
        self.blocks.trie()
    }

    /// Every peer in use.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter()
    }

    /// The id of a peer in use.
    pub(crate) fn peer_id(&self, peer: &Peer) -> Option<PeerId> {
        self.peers.find(peer)
    }
}
