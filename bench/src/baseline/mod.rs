//! kube-proxy as the baseline. It is the real one, fed by a real API server ([`real`]), or rules that are the real
//! one's, rule by rule ([`rules`]; a test compares them), for sizes and cases where feeding it would only take time.
mod api;
mod binaries;
pub(crate) mod comparison;
mod control_plane;
mod daemon;
mod generated;
mod memory;
mod node;
mod policy;
pub(crate) mod real;
mod rules;
mod saved;
mod service;
mod tools;

use anyhow::Result;

pub(crate) use self::{memory::Origin, node::Node, policy::Peers};
use crate::system::{Backend, Setup, System};

/// The most services that the real kube-proxy is fed with when only its rules matter: a matter of seconds.
const REAL: usize = 1_000;

/// The most services that a mode loads within minutes.
const fn most(backend: Backend) -> usize {
    match backend {
        Backend::IptablesLegacy | Backend::IptablesNft => 10_000,
        Backend::Nftables => 1_000,
    }
}

/// Why this backend cannot be measured here, and what to do about it; `None` when it can.
pub(crate) fn unavailable(backend: Backend) -> Option<String> {
    let missing = tools::require(backend).and_then(|()| binaries::Binaries::find().map(drop));
    missing.err().map(|error| format!("{error:#}"))
}

/// Why there is no API server here, and what to do about it; `None` when there can be one.
pub(crate) fn control_plane_unavailable() -> Option<String> {
    binaries::Binaries::find().err().map(|error| format!("{error:#}"))
}

/// Why this size is left out unless somebody is patient; `None` when it is not.
pub(crate) fn too_slow(backend: Backend, services: usize) -> Option<String> {
    let most = most(backend);
    (services > most).then(|| format!("{backend:?} takes minutes to load more than {most} services"))
}

/// Builds a node that kube-proxy programs: the real one when its rules are few, or cannot be generated.
pub(crate) fn build(backend: Backend, setup: Setup) -> Result<Box<dyn System>> {
    let real = setup.services.count <= REAL || backend == Backend::Nftables;
    let origin = if real { Origin::KubeProxy } else { Origin::Generated };
    Ok(Box::new(Node::build(backend, setup, origin)?))
}
