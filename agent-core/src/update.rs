//! What the sources tell the state.
use crate::model::{
    ObjectName,
    endpoint::{AttachmentId, Endpoint},
    node::Node,
    policy::NetworkPolicy,
    service::{EndpointSlice, Service},
    workload::{Namespace, Pod},
};

/// The kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    Node,
    NetworkPolicy,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Service, Self::EndpointSlice, Self::Pod, Self::Namespace, Self::Node, Self::NetworkPolicy];
}

/// One change of the cluster, as a source saw it.
///
/// A source that re-lists sends the difference to what it sent before, so `Delete` always names what is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Service(Change<Service, ObjectName>),
    EndpointSlice(Change<EndpointSlice, ObjectName>),
    Pod(Change<Pod, ObjectName>),
    Namespace(Change<Namespace, String>),
    Node(Change<Node, String>),
    NetworkPolicy(Change<NetworkPolicy, ObjectName>),
    /// From the CNI server.
    Endpoint(Change<Endpoint, AttachmentId>),
    /// The first list of this kind is complete. Nothing is pruned before every kind has said so.
    Synced(Kind),
}

/// An object is there (again), or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T, K> {
    Apply(T),
    Delete(K),
}
