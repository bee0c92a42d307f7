//! Nodes.
use std::{fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub name: String,
    /// `status.addresses` of type `InternalIP`, in order.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
    /// Label [`SERVICES_LABEL`]: who translates services there, where that differs from the other nodes.
    pub services: Option<Services>,
    /// It is being deleted, or drained for that: load balancers are to send it nothing new.
    pub is_leaving: bool,
}

/// The label of a Node that chooses [`Services`].
pub const SERVICES_LABEL: &str = "millrace.io/services";

/// Who translates the addresses of services to those of backends on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Services {
    /// Millrace alone. No kube-proxy may run.
    #[default]
    Millrace,
    /// Millrace what is new, kube-proxy what it has begun: the step between the other two.
    Both,
    /// kube-proxy, except for pods with policies: a policy judges the backend, so Millrace must choose it.
    KubeProxy,
}

impl Services {
    pub const ALL: [Self; 3] = [Self::Millrace, Self::Both, Self::KubeProxy];

    /// As options and labels spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Millrace => "millrace",
            Self::Both => "both",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// None of the names of [`Services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be millrace, both or kube-proxy")]
pub struct UnknownServices;

impl FromStr for Services {
    type Err = UnknownServices;

    fn from_str(name: &str) -> Result<Self, UnknownServices> {
        Self::ALL.into_iter().find(|services| services.name() == name).ok_or(UnknownServices)
    }
}
