//! What an update made dirty: the scopes of the maps that must be rendered again.
use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU64};

use ipnetwork::IpNetwork;

use crate::{
    entry::Frontend,
    ids::{ClassId, SetId},
};

/// The dirty scopes after one or more updates. Each is rendered whole and compared with what the maps hold, so
/// naming too much costs time, never correctness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Every scope is dirty, and whatever the maps hold beyond the state is to be pruned.
    pub everything: bool,
    /// Frontends of services.
    pub frontends: BTreeSet<Frontend>,
    /// Addresses of local pods.
    pub endpoints: BTreeSet<IpAddr>,
    /// Addresses of pods anywhere, whose class may differ.
    pub addresses: BTreeSet<IpAddr>,
    /// Classes that appeared or went.
    pub classes: BTreeSet<ClassId>,
    /// Policy sets that appeared or went.
    pub sets: BTreeSet<SetId>,
    /// The `ipBlock`s in use.
    pub cidrs: bool,
    /// Pod CIDRs of nodes.
    pub routes: BTreeSet<IpNetwork>,
    /// Network namespaces of local pods.
    pub netns: BTreeSet<NonZeroU64>,
}

impl Changed {
    /// Everything, and prune.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing is dirty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another update made dirty.
    pub fn extend(&mut self, other: Self) {
        self.everything |= other.everything;
        self.cidrs |= other.cidrs;
        self.frontends.extend(other.frontends);
        self.endpoints.extend(other.endpoints);
        self.addresses.extend(other.addresses);
        self.classes.extend(other.classes);
        self.sets.extend(other.sets);
        self.routes.extend(other.routes);
        self.netns.extend(other.netns);
    }
}
