//! Who has which address. Pure: the time is an argument.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU64,
    time::Duration,
};

use agent_core::model::{
    Family, ObjectName,
    endpoint::{AttachmentId, Endpoint},
};
use dataplane_common::net::MacAddr;
use ipnetwork::IpNetwork;

use super::pool::Pool;

/// A reservation whose interface never came is given up after this.
pub const RESERVATION_LIFETIME: Duration = Duration::from_mins(2);

/// The addresses of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub pod: ObjectName,
    pub pod_uid: String,
    /// At most one per family.
    pub ips: Vec<IpAddr>,
    pub state: LeaseState,
}

/// How far the attachment has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Only in memory: an agent that restarts refuses the interface, and ADD is repeated.
    Reserved { since: Duration },
    /// Programs and policy are in place. On disk.
    Attached(Endpoint),
}

/// The interface of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub host_mac: MacAddr,
    pub pod_mac: MacAddr,
    pub netns: Option<NonZeroU64>,
}

/// Why there is no address, or no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("the node has no pod CIDR yet: its Node object must have spec.podCIDRs")]
    NoPodCidr,
    #[error(
        "no free address in the node's pod CIDRs {pools}: {leased} in use, {of_others} of pods that another network attached \
         or that routes lead to, {host_local} in leases of host-local (remove those whose pods are gone)"
    )]
    Exhausted { pools: String, leased: usize, of_others: usize, host_local: usize },
    #[error(
        "container {} has no reservation for {}: the agent restarted during ADD, or ADD took too long",
        .0.container_id, .0.ifname
    )]
    NotReserved(AttachmentId),
}

/// Addresses that somebody else gave away, as far as others say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Those that pods have, by their objects. A pod that asks for an address may have its own once more: after a boot
    /// objects still show what their pods had before.
    pub pods: BTreeMap<IpAddr, ObjectName>,
    /// Those that `host-local` has leases of.
    pub host_local: BTreeSet<IpAddr>,
}

impl Others {
    fn have(&self, address: IpAddr, asking: &ObjectName) -> bool {
        self.host_local.contains(&address) || self.pods.get(&address).is_some_and(|pod| pod != asking)
    }
}

/// How many addresses there are of each family: IPv4, IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted(pub [CountedFamily; 2]);

/// How many addresses there are of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountedFamily {
    /// That the ranges have for pods.
    pub capacity: u128,
    pub leased: u32,
    /// Released a moment ago.
    pub resting: u32,
    /// On interfaces which no lease knows.
    pub foreign: u32,
}

/// All leases of the node.
///
/// Times are since boot, so that they mean the same to an agent that restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    pools: Vec<Pool>,
    held: BTreeMap<AttachmentId, Lease>,
    /// Released addresses, and from when on they may be used again.
    pub(super) cooling: BTreeMap<IpAddr, Duration>,
    /// The address of each range that was handed out last.
    pub(super) cursors: BTreeMap<IpNetwork, IpAddr>,
    /// Addresses that were seen on interfaces which no lease knows, or that the host's routes lead to.
    blocked: BTreeSet<IpAddr>,
    others: Others,
    cool_down: Duration,
}

impl Leases {
    #[must_use]
    pub fn new(cool_down: Duration) -> Self {
        Self { cool_down, ..Self::default() }
    }

    /// Sets the ranges for leases to come.
    pub fn set_pod_cidrs(&mut self, cidrs: &[IpNetwork]) {
        self.pools = cidrs.iter().copied().map(Pool::new).collect();
    }

    /// Sets what is not to be handed out because others have it.
    pub fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// The addresses of an attachment: one of each family the node has. Repeating it returns the same. An address that
    /// was released a moment ago is taken only when there is no other: the one that has rested for the longest time.
    ///
    /// # Errors
    /// If the node has no free address.
    pub fn reserve(
        &mut self,
        attachment: &AttachmentId,
        pod: &ObjectName,
        pod_uid: &str,
        now: Duration,
    ) -> Result<Vec<IpAddr>, LeaseError> {
        if let Some(lease) = self.held.get(attachment) {
            return Ok(lease.ips.clone());
        }
        let families: BTreeSet<Family> = self.pools.iter().map(|pool| Family::of(pool.cidr().ip())).collect();
        if families.is_empty() {
            return Err(LeaseError::NoPodCidr);
        }
        self.cooling.retain(|_, until| *until > now);
        let picked =
            families.into_iter().map(|family| self.pick(family, pod)).collect::<Result<Vec<_>, _>>()?;
        self.cursors.extend(picked.iter().copied());
        for (_, address) in &picked {
            self.cooling.remove(address);
        }
        let ips: Vec<IpAddr> = picked.into_iter().map(|(_, address)| address).collect();
        let state = LeaseState::Reserved { since: now };
        let lease = Lease { pod: pod.clone(), pod_uid: pod_uid.to_owned(), ips: ips.clone(), state };
        self.held.insert(attachment.clone(), lease);
        Ok(ips)
    }

    fn pick(&self, family: Family, asking: &ObjectName) -> Result<(IpNetwork, IpAddr), LeaseError> {
        let leased: BTreeSet<IpAddr> =
            self.held.values().flat_map(|lease| lease.ips.iter().copied()).collect();
        let is_nobodys = |address: IpAddr| {
            !leased.contains(&address)
                && !self.blocked.contains(&address)
                && !self.others.have(address, asking)
        };
        let is_free = |address: IpAddr| is_nobodys(address) && !self.cooling.contains_key(&address);
        let others = self.others.pods.len() + self.others.host_local.len();
        let busy = leased.len() + self.cooling.len() + self.blocked.len() + others;
        let pools = self.pools.iter().filter(|pool| Family::of(pool.cidr().ip()) == family);
        let fresh = pools.clone().find_map(|pool| {
            let cidr = pool.cidr();
            Some((cidr, pool.next(self.cursors.get(&cidr).copied(), busy, is_free)?))
        });
        let rested = || {
            let resting = self.cooling.iter().filter(|(address, _)| is_nobodys(**address));
            let of_pools = resting.filter_map(|(address, until)| {
                let pool = pools.clone().find(|pool| pool.cidr().contains(*address))?;
                Some((until, (pool.cidr(), *address)))
            });
            of_pools.min_by_key(|(until, _)| **until).map(|(_, found)| found)
        };
        fresh.or_else(rested).ok_or_else(|| {
            let is_here = |address: &&IpAddr| pools.clone().any(|pool| pool.cidr().contains(**address));
            let is_ours = |address: &&IpAddr| leased.contains(*address);
            let of_others: BTreeSet<_> = self.blocked.iter().chain(self.others.pods.keys()).collect();
            let is_known = |address: &&IpAddr| is_ours(address) || of_others.contains(*address);
            LeaseError::Exhausted {
                pools: pools.clone().map(|pool| pool.cidr().to_string()).collect::<Vec<_>>().join(", "),
                leased: leased.iter().filter(is_here).count(),
                of_others: of_others.iter().copied().filter(is_here).filter(|at| !is_ours(at)).count(),
                host_local: self.others.host_local.iter().filter(is_here).filter(|at| !is_known(at)).count(),
            }
        })
    }

    /// The endpoint that a reservation becomes with its interface.
    ///
    /// # Errors
    /// If there is no reservation.
    pub fn endpoint(&self, attachment: &AttachmentId, interface: Interface) -> Result<Endpoint, LeaseError> {
        let lease = self.held.get(attachment).ok_or_else(|| LeaseError::NotReserved(attachment.clone()))?;
        Ok(Endpoint {
            attachment: attachment.clone(),
            pod: lease.pod.clone(),
            pod_uid: lease.pod_uid.clone(),
            ips: lease.ips.clone(),
            host_ifname: interface.host_ifname,
            host_ifindex: interface.host_ifindex,
            host_mac: interface.host_mac,
            pod_mac: interface.pod_mac,
            netns: interface.netns,
        })
    }

    /// Takes an endpoint as attached. Also for endpoints that were found and not reserved: then its addresses must be
    /// free of other leases.
    pub fn attach(&mut self, endpoint: Endpoint) {
        for address in &endpoint.ips {
            self.cooling.remove(address);
            self.blocked.remove(address);
        }
        let lease = Lease {
            pod: endpoint.pod.clone(),
            pod_uid: endpoint.pod_uid.clone(),
            ips: endpoint.ips.clone(),
            state: LeaseState::Attached(endpoint.clone()),
        };
        self.held.insert(endpoint.attachment, lease);
    }

    /// Frees an attachment's addresses, for use after the cool-down. `None`: there were none.
    pub fn release(&mut self, attachment: &AttachmentId, now: Duration) -> Option<Lease> {
        let lease = self.held.remove(attachment)?;
        self.cool(&lease.ips, now);
        Some(lease)
    }

    /// Keeps addresses out of use for the cool-down.
    pub fn cool(&mut self, addresses: &[IpAddr], now: Duration) {
        self.cooling.extend(addresses.iter().map(|address| (*address, now + self.cool_down)));
    }

    /// Keeps addresses that live on unknown interfaces out of use, in place of those blocked before.
    pub fn block(&mut self, living: impl IntoIterator<Item = IpAddr>) {
        let leased: BTreeSet<IpAddr> =
            self.held.values().flat_map(|lease| lease.ips.iter().copied()).collect();
        self.blocked = living.into_iter().filter(|address| !leased.contains(address)).collect();
    }

    /// Reservations that were never used.
    #[must_use]
    pub fn abandoned(&self, now: Duration) -> Vec<AttachmentId> {
        let is_abandoned = |lease: &Lease| match lease.state {
            LeaseState::Reserved { since } => since + RESERVATION_LIFETIME < now,
            LeaseState::Attached(_) => false,
        };
        self.held
            .iter()
            .filter(|(_, lease)| is_abandoned(lease))
            .map(|(attachment, _)| attachment.clone())
            .collect()
    }

    /// The attached endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.held.values().filter_map(|lease| match &lease.state {
            LeaseState::Attached(endpoint) => Some(endpoint),
            LeaseState::Reserved { .. } => None,
        })
    }

    /// How many addresses are what.
    #[must_use]
    pub fn counted(&self, now: Duration) -> Counted {
        let mut counted = Counted::default();
        let of = |address: &IpAddr| usize::from(address.is_ipv6());
        for pool in &self.pools {
            counted.0[of(&pool.cidr().ip())].capacity += pool.usable();
        }
        for address in self.held.values().flat_map(|lease| &lease.ips) {
            counted.0[of(address)].leased += 1;
        }
        for (address, _) in self.cooling.iter().filter(|(_, until)| **until > now) {
            counted.0[of(address)].resting += 1;
        }
        for address in &self.blocked {
            counted.0[of(address)].foreign += 1;
        }
        counted
    }

    /// Whether an address belongs to a lease.
    #[must_use]
    pub fn is_leased(&self, address: IpAddr) -> bool {
        self.held.values().any(|lease| lease.ips.contains(&address))
    }
}

#[cfg(test)]
mod tests;
