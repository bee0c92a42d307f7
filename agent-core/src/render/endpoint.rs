//! Endpoints: the pods behind this node's interfaces.
use std::net::IpAddr;

use super::{Desired, EndpointEntry};
use crate::{
    model::endpoint::AttachmentId,
    state::{Changed, ClusterState},
};

/// Whether an endpoint can be programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointStatus {
    /// No such endpoint.
    Unknown,
    /// Not every kind is in sync: a policy for the pod may still come.
    WaitingForSync,
    /// The sources do not know the pod yet: nobody can say which policies select it.
    WaitingForPod,
    /// It is rendered. See [`crate::observed::Observed::has_endpoint`] for whether the maps have it.
    Rendered,
}

/// Whether an endpoint can be programmed, or what it waits for.
#[must_use]
pub fn endpoint_status(state: &ClusterState, attachment: &AttachmentId) -> EndpointStatus {
    match state.workloads.endpoint(attachment) {
        None => EndpointStatus::Unknown,
        Some(_) if !state.is_synced() => EndpointStatus::WaitingForSync,
        Some(_) if state.compiled.selected(attachment).is_none() => EndpointStatus::WaitingForPod,
        Some(_) => EndpointStatus::Rendered,
    }
}

pub(super) fn render(state: &ClusterState, changed: &Changed, desired: &mut Desired) {
    for addr in &changed.endpoints {
        desired.endpoints.insert(*addr, entry(state, *addr));
    }
}

/// An endpoint whose pod is unknown has no entry: fail closed.
fn entry(state: &ClusterState, addr: IpAddr) -> Option<EndpointEntry> {
    let endpoint = state.workloads.endpoint_at(addr)?;
    let selected = state.compiled.selected(&endpoint.attachment)?;
    Some(EndpointEntry {
        pod: endpoint.pod.clone(),
        ifindex: endpoint.host_ifindex,
        pod_mac: endpoint.pod_mac,
        host_mac: endpoint.host_mac,
        ingress: selected.ingress,
        egress: selected.egress,
    })
}
