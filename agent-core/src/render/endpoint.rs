//! Endpoints: the pods behind this node's interfaces.
use super::{Desired, EndpointEntry};
use crate::{
    model::endpoint::{AttachmentId, Endpoint},
    problem::{Problem, Scope},
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
        Some(endpoint) if state.workloads.subject(endpoint).is_none() => EndpointStatus::WaitingForPod,
        Some(_) => EndpointStatus::Rendered,
    }
}

pub(super) fn render(state: &ClusterState, changed: &Changed, desired: &mut Desired) {
    for addr in &changed.endpoints {
        let endpoint = state.workloads.endpoint_at(*addr);
        desired.endpoints.insert(*addr, endpoint.and_then(|endpoint| entry(state, endpoint)));
        // Once for all addresses of the endpoint.
        let first = endpoint.filter(|endpoint| endpoint.ips.first() == Some(addr));
        if let Some(text) = first.and_then(|endpoint| without_object(state, endpoint)) {
            let object = first.map(|endpoint| format!("Pod {}", endpoint.pod)).unwrap_or_default();
            desired.problems.push(Problem { scope: Scope::Endpoint(*addr), object, text });
        }
    }
    for netns in &changed.netns {
        // A pod may have several interfaces.
        let is_pods = state.endpoints().any(|endpoint| endpoint.netns == Some(*netns));
        desired.netns.insert(*netns, is_pods);
    }
}

/// What to say of an interface without a Pod object. While ADD waits for the object, nothing.
fn without_object(state: &ClusterState, endpoint: &Endpoint) -> Option<String> {
    let Endpoint { attachment, host_ifname, .. } = endpoint;
    let consequence = if state.workloads.departed(attachment).is_some() {
        "what isolated it goes on to, by its last labels, and no peer of a policy matches it"
    } else if state.compiled.is_unclaimed(attachment) && state.workloads.subject(endpoint).is_none() {
        "only this node reaches it, for nobody can say which policies select it"
    } else {
        return None;
    };
    Some(format!(
        "its object is gone, but its interface {host_ifname} is still there: {consequence}; if the container runs on, \
         stop its sandbox {} (`crictl stopp`)",
        attachment.container_id
    ))
}

fn entry(state: &ClusterState, endpoint: &Endpoint) -> Option<EndpointEntry> {
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
