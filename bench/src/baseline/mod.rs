//! kube-proxy as it is: real API server, real binary, or rules of the same shape for sizes it takes too long for.
use anyhow::{Result, bail};

use crate::system::{Backend, Setup, System};

/// Why this backend cannot be measured here, and what to do about it; `None` when it can.
pub(crate) fn unavailable(backend: Backend) -> Option<String> {
    Some(format!("kube-proxy with {backend:?} cannot be started: no kube-proxy binary"))
}

/// Why this size is left out unless somebody is patient; `None` when it is not.
pub(crate) fn too_slow(_backend: Backend, _services: usize) -> Option<String> {
    None
}

/// Builds a node that kube-proxy programs.
pub(crate) fn build(backend: Backend, _setup: Setup) -> Result<Box<dyn System>> {
    bail!("{}", unavailable(backend).unwrap_or_default())
}
