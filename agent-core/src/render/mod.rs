//! From state to map entries.
mod endpoint;
mod policy;
mod route;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU64,
    sync::Arc,
};

use dataplane_common::net::MacAddr;
use ipnetwork::IpNetwork;

pub use self::endpoint::{EndpointStatus, endpoint_status};
use crate::{
    entry::{Backend, Frontend, PortPrefix, Route, Way},
    ids::{ClassId, RuleId, ServiceId, SetId},
    model::{Family, ObjectName},
    problem::Problem,
    state::{Changed, ClusterState},
};

/// What rendering needs to know of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    pub node_name: String,
    /// Interface that leads to the other nodes; `None`: no routes of this family.
    pub uplink_v4: Option<u32>,
    pub uplink_v6: Option<u32>,
    /// The ways to pod CIDRs whose node is not on the uplink's link.
    pub detours: BTreeMap<IpNetwork, Way>,
}

impl NodeConfig {
    const fn uplink(&self, family: Family) -> Option<u32> {
        match family {
            Family::V4 => self.uplink_v4,
            Family::V6 => self.uplink_v6,
        }
    }
}

/// The entries of every dirty scope. `None` and empty: the scope must have no entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every scope is here: whatever else the maps hold goes.
    pub prune: bool,
    pub frontends: BTreeMap<Frontend, Option<FrontendEntry>>,
    /// Whole policy sets.
    pub sets: BTreeMap<SetId, Option<SetEntries>>,
    /// Parts of policy sets: one class each.
    pub cells: BTreeMap<(SetId, ClassId), Cell>,
    /// Sets that no local pod uses any more. They are needed while an endpoint in the maps still does.
    pub lingering: BTreeSet<SetId>,
    pub classes: BTreeMap<IpAddr, Option<ClassId>>,
    /// The whole tries of both families.
    pub cidrs: Option<BTreeMap<IpNetwork, ClassId>>,
    pub endpoints: BTreeMap<IpAddr, Option<EndpointEntry>>,
    pub routes: BTreeMap<IpNetwork, Option<Route>>,
    /// Whether a network namespace is that of a local pod.
    pub netns: BTreeMap<NonZeroU64, bool>,
    pub problems: Vec<Problem>,
}

/// The entries of a policy set and one class: which ports which rule allows.
pub type Cell = BTreeMap<PortPrefix, RuleId>;

/// A frontend and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendEntry {
    pub service: Arc<ObjectName>,
    pub service_id: ServiceId,
    /// See [`dataplane_common::service::flag`].
    pub flags: u16,
    /// To choose from: sorted, without duplicates, at most `u16::MAX`.
    pub backends: Vec<Backend>,
    /// They get no new flow, and keep those that they have: in the same way.
    pub kept: Vec<Backend>,
}

/// The entries of a policy set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetEntries {
    /// For people: the policies that isolate.
    pub policies: Vec<ObjectName>,
    pub cells: BTreeMap<ClassId, Cell>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    pub pod: ObjectName,
    pub ifindex: u32,
    pub pod_mac: MacAddr,
    pub host_mac: MacAddr,
    /// `None`: not isolated.
    pub ingress: Option<SetId>,
    pub egress: Option<SetId>,
}

/// Renders the dirty scopes. Renders nothing before the state is in sync.
#[must_use]
pub fn render(state: &ClusterState, config: &NodeConfig, changed: &Changed) -> Desired {
    if !state.is_synced() {
        return Desired::default();
    }
    let everything;
    let changed = if changed.everything {
        everything = all_scopes(state);
        &everything
    } else {
        changed
    };
    let mut desired = Desired { prune: changed.everything, ..Desired::default() };
    service::render(state, config, changed, &mut desired);
    endpoint::render(state, changed, &mut desired);
    policy::render(state, changed, &mut desired);
    route::render(state, config, changed, &mut desired);
    desired
}

/// Renders everything, and asks for whatever else the maps hold to be pruned.
#[must_use]
pub fn render_all(state: &ClusterState, config: &NodeConfig) -> Desired {
    render(state, config, &Changed::everything())
}

fn all_scopes(state: &ClusterState) -> Changed {
    Changed {
        everything: true,
        frontends: state.services.frontends().collect(),
        endpoints: state.endpoints().flat_map(|endpoint| &endpoint.ips).copied().collect(),
        addresses: state.workloads.peer_addresses(),
        // Whole sets hold the entries of every class.
        classes: BTreeSet::new(),
        sets: state.compiled.sets().map(|(id, _)| id).collect(),
        cidrs: true,
        routes: state.nodes.cidrs().into_iter().chain(state.services.addresses()).collect(),
        netns: state.endpoints().filter_map(|endpoint| endpoint.netns).collect(),
    }
}
