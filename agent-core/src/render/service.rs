//! Services: which backends a frontend chooses from.
//!
//! The rules are those of kube-proxy's `CategorizeEndpoints`, for cluster IPs.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use dataplane_common::service::flag;

use super::{Desired, FrontendEntry, NodeConfig};
use crate::{
    entry::{Backend, Frontend},
    model::{
        Family, Protocol,
        service::{EndpointSlice, ServicePort, SliceEndpoint, TrafficPolicy},
    },
    problem::{Problem, Scope},
    state::{Changed, ClusterState, services::Owner},
};

/// The most backends of one frontend: its count is 16 bits wide.
const MAX_BACKENDS: usize = u16::MAX as usize;

pub(super) fn render(state: &ClusterState, config: &NodeConfig, changed: &Changed, desired: &mut Desired) {
    for frontend in &changed.frontends {
        let owner = state.services.owner(*frontend);
        let entry = owner.map(|owner| entry(state, config, *frontend, owner, &mut desired.problems));
        desired.frontends.insert(*frontend, entry);
        report_losers(state, *frontend, &mut desired.problems);
    }
}

fn entry(
    state: &ClusterState,
    config: &NodeConfig,
    frontend: Frontend,
    owner: Owner<'_>,
    problems: &mut Vec<Problem>,
) -> FrontendEntry {
    let family = Family::of(frontend.addr);
    let mut candidates = BTreeMap::new();
    for slice in state.services.slices_of(owner.name).filter(|slice| slice.family == family) {
        if let Some(port) = port_of(slice, owner.port) {
            merge(slice, port, config, frontend, &mut candidates, problems);
        }
    }
    let Chosen { mut backends, mut kept, flags } =
        choose(&candidates, owner.service.internal_traffic_policy, owner.port.protocol);
    if backends.len() > MAX_BACKENDS {
        backends.truncate(MAX_BACKENDS);
        problems.push(Problem {
            scope: Scope::Frontend(frontend),
            object: format!("Service {}", owner.name),
            text: format!(
                "has more than {MAX_BACKENDS} backends; the rest gets no traffic: split the Service"
            ),
        });
    }
    // What is cut off loses flows that go nowhere else, and gets no new ones: nothing that an owner could mend.
    kept.truncate(MAX_BACKENDS);
    for part in [&mut backends, &mut kept] {
        part.sort_unstable_by_key(Backend::slot_order);
    }
    FrontendEntry { service: Arc::clone(owner.name), service_id: owner.id, flags, backends, kept }
}

/// What matters of a backend that some slice names.
#[expect(clippy::struct_excessive_bools, reason = "the conditions of the API, each on its own")]
#[derive(Clone, Copy)]
struct Candidate {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
}

impl Candidate {
    /// Of two copies of one backend the higher one counts: an address that is in use again beats the one that is
    /// going away.
    const fn rank(self) -> (bool, bool, bool) {
        (!self.terminating, self.ready, self.serving)
    }

    const fn is_fallback(self) -> bool {
        self.serving && self.terminating
    }
}

fn merge(
    slice: &EndpointSlice,
    port: u16,
    config: &NodeConfig,
    frontend: Frontend,
    candidates: &mut BTreeMap<Backend, Candidate>,
    problems: &mut Vec<Problem>,
) {
    for endpoint in slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == slice.family) {
        if let Some(why) = unusable(endpoint.address) {
            problems.push(Problem {
                scope: Scope::Frontend(frontend),
                object: format!("EndpointSlice {}", slice.name),
                text: format!(
                    "endpoint {} is {why} and gets no traffic: give a routable address",
                    endpoint.address
                ),
            });
            continue;
        }
        let SliceEndpoint { address, ready, serving, terminating, ref node_name } = *endpoint;
        let local = node_name.as_ref() == Some(&config.node_name);
        let candidate = Candidate { ready, serving, terminating, local };
        let known = candidates.entry(Backend { addr: address, port }).or_insert(candidate);
        if candidate.rank() > known.rank() {
            *known = candidate;
        }
    }
}

/// The backends of a frontend.
struct Chosen {
    backends: Vec<Backend>,
    kept: Vec<Backend>,
    flags: u16,
}

fn choose(candidates: &BTreeMap<Backend, Candidate>, policy: TrafficPolicy, protocol: Protocol) -> Chosen {
    let select = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<Backend> {
        candidates.iter().filter(|(_, candidate)| wanted(candidate)).map(|(backend, _)| *backend).collect()
    };
    let eligible = |candidate: &Candidate| policy == TrafficPolicy::Cluster || candidate.local;
    let gets_new = |candidate: &Candidate| eligible(candidate) && candidate.ready;
    let gets_new_at_last = |candidate: &Candidate| eligible(candidate) && candidate.is_fallback();
    let is_new: &dyn Fn(&Candidate) -> bool =
        if candidates.values().any(gets_new) { &gets_new } else { &gets_new_at_last };
    let backends = select(is_new);
    // As kube-proxy cleans UDP flows (pkg/proxy/conntrack/cleanup.go): those of an endpoint that serves stay, whatever
    // new flows get. It takes one that is published though it does not serve for gone; here that one keeps its flows.
    let keeps = |candidate: &Candidate| (candidate.ready || candidate.serving) && !is_new(candidate);
    let kept = if protocol == Protocol::Tcp { Vec::new() } else { select(&keeps) };
    let exist = || candidates.values().any(|candidate| candidate.ready || candidate.is_fallback());
    let drop = backends.is_empty() && policy == TrafficPolicy::Local && exist();
    Chosen { backends, kept, flags: if drop { flag::DROP_WHEN_EMPTY } else { 0 } }
}

/// The number that a slice gives to a port of the Service.
fn port_of(slice: &EndpointSlice, wanted: &ServicePort) -> Option<u16> {
    let same = |port: &&_| {
        let crate::model::service::SlicePort { name, protocol, .. } = port;
        *name == wanted.name && *protocol == wanted.protocol
    };
    slice.ports.iter().find(same).map(|port| port.port.unwrap_or(wanted.port))
}

/// Addresses that would lead traffic to the node itself or to nobody.
fn unusable(addr: IpAddr) -> Option<&'static str> {
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    let plain = addr.to_canonical();
    if plain.is_loopback() {
        Some("a loopback address")
    } else if plain.is_multicast() {
        Some("a multicast address")
    } else if plain.is_unspecified() {
        Some("the unspecified address")
    } else if link_local {
        Some("a link-local address")
    } else {
        None
    }
}

fn report_losers(state: &ClusterState, frontend: Frontend, problems: &mut Vec<Problem>) {
    let mut claimants = state.services.claimants(frontend).map(|(_, name)| name);
    let Some(winner) = claimants.next() else { return };
    problems.extend(claimants.map(|loser| Problem {
        scope: Scope::Frontend(frontend),
        object: format!("Service {loser}"),
        text: format!(
            "its port {} of {} belongs to Service {winner}: give one of them another address or port",
            frontend.port, frontend.addr
        ),
    }));
}
