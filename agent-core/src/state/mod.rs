//! The state of the cluster, as far as this node needs it. Owned by one task; changed only by
//! [`ClusterState::apply`].
mod changed;
pub(crate) mod compiled;
pub(crate) mod nodes;
pub(crate) mod policies;
mod selectors;
pub(crate) mod services;
pub(crate) mod workloads;

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;

pub use self::changed::Changed;
use self::{compiled::Compiled, nodes::Nodes, policies::Policies, services::Services, workloads::Workloads};
use crate::{
    model::{
        ObjectName,
        endpoint::Endpoint,
        node::Node,
        policy::NetworkPolicy,
        service::{EndpointSlice, Service},
        workload::{DepartedPod, Namespace, Pod},
    },
    update::{Kind, Update},
};

/// Everything the sources said, and what the policies compile to.
///
/// Until every kind is in sync only objects are collected: nothing is compiled, rendered or pruned. Endpoints
/// restored from disk must be applied before that, or the first plan prunes their entries.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    revision: u64,
    synced: BTreeSet<Kind>,
    pub(crate) services: Services,
    pub(crate) workloads: Workloads,
    pub(crate) nodes: Nodes,
    pub(crate) policies: Policies,
    pub(crate) compiled: Compiled,
}

impl ClusterState {
    /// Takes in one update and returns what it made dirty: nothing, when it changes nothing that matters; everything,
    /// when it completes the first lists.
    pub fn apply(&mut self, update: Update) -> Changed {
        let mut changed = Changed::default();
        let was_synced = self.is_synced();
        let differs = match update {
            Update::Service(change) => self.services.apply_service(change, &mut changed),
            Update::EndpointSlice(change) => self.services.apply_slice(change, &mut changed),
            Update::Node(change) => self.nodes.apply(change, &mut changed),
            Update::Pod(change) => {
                let pod = self.workloads.apply_pod(change, &mut changed);
                let differs = pod.is_some();
                if let Some(name) = pod.filter(|_| was_synced) {
                    self.compiled.follow_pod(name, &self.workloads, &self.policies, &mut changed);
                }
                differs
            }
            Update::Namespace(change) => {
                let change = self.workloads.apply_namespace(change);
                if let Some(change) = change.as_ref().filter(|_| was_synced) {
                    self.compiled.follow_namespace(change, &self.workloads, &mut changed);
                }
                change.is_some()
            }
            Update::NetworkPolicy(change) => {
                let change = self.policies.apply(change, &mut self.compiled.rule_ids);
                if let Some(change) = change.as_ref().filter(|_| was_synced) {
                    self.compiled.follow_policy(change, &self.workloads, &self.policies, &mut changed);
                }
                change.is_some()
            }
            Update::Endpoint(change) => {
                let attachment = self.workloads.apply_endpoint(change, &mut changed);
                if let Some(attachment) = attachment.as_ref().filter(|_| was_synced) {
                    self.compiled.follow_endpoint(attachment, &self.workloads, &self.policies, &mut changed);
                }
                attachment.is_some()
            }
            Update::Synced(kind) => self.synced.insert(kind),
        };
        self.revision += u64::from(differs);
        match (was_synced, self.is_synced()) {
            (false, false) => return Changed::default(),
            (false, true) => {
                self.compiled.build(&self.workloads, &self.policies);
                changed = Changed::everything();
            }
            (true, _) => {}
        }
        self.workloads.note_isolation(|attachment| self.compiled.isolation(attachment));
        changed
    }

    /// Takes over what an earlier run remembered of an endpoint whose pod's object was gone. Comes after the endpoint
    /// and before the sources.
    pub fn restore_departed(&mut self, departed: DepartedPod) {
        self.workloads.restore_departed(departed);
    }

    /// Pods whose objects are gone while their interfaces are still there.
    #[must_use]
    pub fn departed(&self) -> impl ExactSizeIterator<Item = &DepartedPod> {
        self.workloads.all_departed()
    }

    /// Forgets what only the transition to the present state needed. To be called when the maps hold what was last
    /// rendered; until then old policy sets stay, so that no flow is denied in between.
    pub fn tidy(&mut self) -> Changed {
        let mut changed = Changed::default();
        self.compiled.tidy(&self.workloads, &mut changed);
        changed
    }

    /// Whether the first list of every kind is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.len() == Kind::ALL.len()
    }

    /// The kinds whose first list is not complete.
    pub fn waiting_for(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.synced.contains(kind))
    }

    /// The number of updates that changed something.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.services()
    }

    /// For each family the longest prefix that holds the address of every Service.
    pub fn service_prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.services.prefixes()
    }

    #[must_use]
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &EndpointSlice> {
        self.services.slices()
    }

    #[must_use]
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.workloads.pods().map(|(_, pod)| pod)
    }

    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.workloads.pod(name)
    }

    /// The addresses in a range that pods have by their objects, and whose they are.
    pub fn pods_in_range(&self, range: IpNetwork) -> impl Iterator<Item = (IpAddr, ObjectName)> {
        self.workloads.pods_in_range(range)
    }

    #[must_use]
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.workloads.namespaces()
    }

    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.nodes()
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.node(name)
    }

    #[must_use]
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &NetworkPolicy> {
        self.policies.policies()
    }

    #[must_use]
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.workloads.endpoints()
    }
}
