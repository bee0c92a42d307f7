//! Whether the machine has the memory that a baseline will take, asked before anything starts.
use anyhow::{Result, ensure};

use crate::{
    measure::memory,
    system::{Backend, services::ServiceSet},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a baseline takes besides its services: a control plane, programs, the benchmark itself.
const BASE: u64 = 1024 * MIB;

/// Where the rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Written by this program, restored by iptables.
    Generated,
    /// The real kube-proxy, fed by a real API server.
    KubeProxy,
}

/// The most that one service with its endpoints takes while it is loaded, all programs and the kernel together.
const fn per_service(backend: Backend, origin: Origin) -> u64 {
    let rules = match backend {
        Backend::IptablesLegacy => 32 * KIB,
        Backend::IptablesNft | Backend::Nftables => 64 * KIB,
    };
    match origin {
        Origin::Generated => rules,
        // Twice in etcd, the API server's cache, kube-proxy's cache and its buffers.
        Origin::KubeProxy => rules + 64 * KIB,
    }
}

/// Fails when the services do not fit into the memory that is free.
pub(crate) fn require(backend: Backend, origin: Origin, services: ServiceSet) -> Result<()> {
    enough(backend, origin, services, memory::available()?)
}

fn enough(backend: Backend, origin: Origin, services: ServiceSet, available: u64) -> Result<()> {
    let count = services.count;
    let needed = BASE + u64::try_from(count)? * per_service(backend, origin);
    ensure!(
        needed <= available,
        "{count} services in {backend:?} ({origin:?}) need {} MiB of free memory, this machine has {} MiB: free some, \
         or measure fewer services",
        needed / MIB,
        available / MIB
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_services_in_little_memory_are_refused_with_both_sizes() {
        let set = ServiceSet { count: 50_000 };
        let refused = enough(Backend::IptablesLegacy, Origin::KubeProxy, set, 2048 * MIB);
        let message = refused.expect_err("2 GiB are not enough").to_string();
        assert!(message.contains("50000 services") && message.contains("has 2048 MiB"), "{message}");
        let few = ServiceSet { count: 10 };
        enough(Backend::IptablesLegacy, Origin::KubeProxy, few, 2048 * MIB).expect("10 services fit");
    }
}
