//! Kubernetes objects → model: everything is parsed here, once, and nothing below sees a raw object.
//!
//! The wire types hold only the fields in use, and serve both sources.
pub mod address;
pub mod endpoint_slice;
pub mod metadata;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod outcome;
pub mod pod;
pub mod policy_rule;
pub mod selector;
pub mod service;
mod unsupported;

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use agent_core::{
    model::{ObjectName, Protocol},
    update::{Change, Kind, Update},
};
use kube::Resource;

pub use self::{
    endpoint_slice::EndpointSlice,
    namespace::Namespace,
    network_policy::NetworkPolicy,
    node::Node,
    outcome::{Concern, InvalidObject, Outcome, Problems},
    pod::Pod,
    service::Service,
};

use super::source::Trigger;

/// Identity of an object. The namespace is empty for kinds that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: ObjectName,
}

impl ObjectKey {
    /// The update that says the object is gone.
    #[must_use]
    pub fn delete(self) -> Update {
        let name = self.name;
        match self.kind {
            Kind::Service => Update::Service(Change::Delete(name)),
            Kind::EndpointSlice => Update::EndpointSlice(Change::Delete(name)),
            Kind::Pod => Update::Pod(Change::Delete(name)),
            Kind::Namespace => Update::Namespace(Change::Delete(name.name)),
            Kind::Node => Update::Node(Change::Delete(name.name)),
            Kind::NetworkPolicy => Update::NetworkPolicy(Change::Delete(name)),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = kind_name(self.kind);
        if self.name.namespace.is_empty() {
            write!(f, "{kind} {}", self.name.name)
        } else {
            write!(f, "{kind} {}", self.name)
        }
    }
}

/// A kind as Kubernetes spells it.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Service",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Pod => "Pod",
        Kind::Namespace => "Namespace",
        Kind::Node => "Node",
        Kind::NetworkPolicy => "NetworkPolicy",
    }
}

/// A Kubernetes object that becomes one object of the model.
pub trait Convert: Resource<DynamicType = ()> {
    type Model: Hash;
    const KIND: Kind;

    /// Parses the object; pure.
    fn convert(&self) -> Outcome<Self::Model>;

    /// What made the object change, where it says so.
    fn trigger(&self) -> Option<Trigger> {
        None
    }

    /// The update that says the object is there.
    fn apply(model: Self::Model) -> Update;
}

/// A converted object, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub update: Update,
    /// Hash of the model: equal for two versions that differ only in what is not in use.
    pub fingerprint: u64,
}

impl Applied {
    #[must_use]
    pub fn new<K: Convert>(model: K::Model) -> Self {
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        Self { fingerprint: hasher.finish(), update: K::apply(model) }
    }
}

/// Identity of a Kubernetes object.
#[must_use]
pub fn key_of<K: Convert>(object: &K) -> ObjectKey {
    ObjectKey { kind: K::KIND, name: metadata::object_name(object.meta()) }
}

/// Converts an object of any kind.
#[must_use]
pub fn convert<K: Convert>(object: &K) -> (ObjectKey, Outcome<Applied>) {
    (key_of(object), object.convert().map(Applied::new::<K>))
}

/// A protocol; absent means TCP. Upper case only, as the API has it.
fn protocol(value: Option<&str>) -> Result<Protocol, String> {
    match value {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("is {other:?}, which is no known protocol")),
    }
}

const PROTOCOL_REMEDY: &str = "use TCP, UDP or SCTP, in capitals";

/// A port number from 1 to 65535.
fn port(value: i64) -> Result<u16, String> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("is {value}, which is no port number"))
}

const PORT_REMEDY: &str = "use a number from 1 to 65535";

/// An outcome in one line, for tables of expectations.
#[cfg(test)]
fn outcome_text<T>(outcome: Outcome<T>, model_text: impl FnOnce(&T) -> String) -> String {
    let (text, problems) = match outcome {
        Outcome::Irrelevant => ("irrelevant".to_owned(), Vec::new()),
        Outcome::Usable { model, skipped } => (model_text(&model), skipped),
        Outcome::Invalid { stand_in: None, problems } => ("nothing".to_owned(), problems),
        Outcome::Invalid { stand_in: Some(model), problems } => {
            (format!("stand-in {}", model_text(&model)), problems)
        }
    };
    let problems: Vec<_> = problems.iter().map(|p| format!("{} {}", p.field, p.problem)).collect();
    if problems.is_empty() { text } else { format!("{text}: {}", problems.join(", ")) }
}
