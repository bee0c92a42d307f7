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
        "no free address in the node's pod CIDRs {pools}: {leased} in use, {cooling} released a moment ago and not to \
         be used again yet"
    )]
    Exhausted { pools: String, leased: usize, cooling: usize },
    #[error(
        "container {} has no reservation for {}: the agent restarted during ADD, or ADD took too long",
        .0.container_id, .0.ifname
    )]
    NotReserved(AttachmentId),
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
    /// Addresses that were seen on interfaces which no lease knows.
    blocked: BTreeSet<IpAddr>,
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

    /// The addresses of an attachment: one of each family the node has. Repeating it returns the same.
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
        let picked = families.into_iter().map(|family| self.pick(family)).collect::<Result<Vec<_>, _>>()?;
        self.cursors.extend(picked.iter().copied());
        let ips: Vec<IpAddr> = picked.into_iter().map(|(_, address)| address).collect();
        let state = LeaseState::Reserved { since: now };
        let lease = Lease { pod: pod.clone(), pod_uid: pod_uid.to_owned(), ips: ips.clone(), state };
        self.held.insert(attachment.clone(), lease);
        Ok(ips)
    }

    fn pick(&self, family: Family) -> Result<(IpNetwork, IpAddr), LeaseError> {
        let leased: BTreeSet<IpAddr> =
            self.held.values().flat_map(|lease| lease.ips.iter().copied()).collect();
        let is_free = |address: IpAddr| {
            !leased.contains(&address)
                && !self.cooling.contains_key(&address)
                && !self.blocked.contains(&address)
        };
        let busy = leased.len() + self.cooling.len() + self.blocked.len();
        let pools = self.pools.iter().filter(|pool| Family::of(pool.cidr().ip()) == family);
        pools
            .clone()
            .find_map(|pool| {
                let cidr = pool.cidr();
                Some((cidr, pool.next(self.cursors.get(&cidr).copied(), busy, is_free)?))
            })
            .ok_or_else(|| {
                let in_family = |address: &&IpAddr| Family::of(**address) == family;
                LeaseError::Exhausted {
                    pools: pools.map(|pool| pool.cidr().to_string()).collect::<Vec<_>>().join(", "),
                    leased: leased.iter().chain(&self.blocked).filter(in_family).count(),
                    cooling: self.cooling.keys().filter(in_family).count(),
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

    /// Whether an address belongs to a lease.
    #[must_use]
    pub fn is_leased(&self, address: IpAddr) -> bool {
        self.held.values().any(|lease| lease.ips.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(30);

    fn id(container: usize) -> AttachmentId {
        AttachmentId { container_id: format!("c{container}"), ifname: "eth0".into() }
    }

    fn leases(cidrs: &[&str]) -> Leases {
        let mut leases = Leases::new(COOL_DOWN);
        leases.set_pod_cidrs(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<_>>());
        leases
    }

    fn reserve(leases: &mut Leases, container: usize, now: u64) -> Result<Vec<IpAddr>, LeaseError> {
        leases.reserve(&id(container), &ObjectName::new("ns", "pod"), "uid", Duration::from_secs(now))
    }

    #[test]
    fn a_pod_gets_one_address_of_each_family_the_node_has() {
        let mut leases = leases(&["10.0.0.0/24", "fd00::/64"]);
        let ips = reserve(&mut leases, 1, 0).unwrap();
        assert_eq!(ips, ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(reserve(&mut leases, 1, 0).unwrap(), ips, "repeating returns the same");
        assert_ne!(reserve(&mut leases, 2, 0).unwrap(), ips);
    }

    #[test]
    fn a_second_range_of_a_family_is_used_when_the_first_is_full() {
        let mut leases = leases(&["10.0.0.0/29", "10.9.0.0/29"]);
        let ips: Vec<_> = (0..10).map(|container| reserve(&mut leases, container, 0).unwrap()[0]).collect();
        assert_eq!(ips.iter().filter(|ip| ip.to_string().starts_with("10.9.")).count(), 5);
        let error = reserve(&mut leases, 99, 0).unwrap_err();
        assert_eq!(error.to_string().matches("/29").count(), 2, "{error}");
    }

    #[test]
    fn an_address_is_not_reused_before_it_has_cooled_down() {
        let mut leases = leases(&["10.0.0.0/29"]);
        for container in 0..5 {
            reserve(&mut leases, container, 0).unwrap();
        }
        leases.release(&id(3), Duration::from_secs(100)).unwrap();
        let error = reserve(&mut leases, 9, 129).unwrap_err();
        assert!(matches!(error, LeaseError::Exhausted { leased: 4, cooling: 1, .. }), "{error}");
        assert_eq!(reserve(&mut leases, 9, 130).unwrap()[0].to_string(), "10.0.0.5");
    }

    #[test]
    fn the_oldest_released_address_is_reused_last_while_others_are_fresh() {
        let mut leases = leases(&["10.0.0.0/24"]);
        let first = reserve(&mut leases, 0, 0).unwrap();
        leases.release(&id(0), Duration::ZERO);
        assert_ne!(reserve(&mut leases, 1, 1000).unwrap(), first);
    }

    #[test]
    fn an_address_that_lives_without_a_lease_is_not_handed_out() {
        let mut leases = leases(&["10.0.0.0/29"]);
        leases.block((2..=5).map(|host| IpAddr::from([10, 0, 0, host])));
        assert_eq!(reserve(&mut leases, 1, 0).unwrap()[0].to_string(), "10.0.0.6");
        assert!(reserve(&mut leases, 2, 0).is_err());
        leases.block([]);
        assert!(reserve(&mut leases, 2, 0).is_ok());
    }

    fn interface() -> Interface {
        Interface {
            host_ifname: "mr1".into(),
            host_ifindex: 7,
            host_mac: [1; 6],
            pod_mac: [2; 6],
            netns: None,
        }
    }

    #[test]
    fn only_reservations_are_abandoned() {
        let mut leases = leases(&["10.0.0.0/24"]);
        reserve(&mut leases, 1, 0).unwrap();
        reserve(&mut leases, 2, 0).unwrap();
        let endpoint = leases.endpoint(&id(2), interface()).unwrap();
        leases.attach(endpoint);
        assert!(leases.abandoned(RESERVATION_LIFETIME).is_empty());
        assert_eq!(leases.abandoned(RESERVATION_LIFETIME + Duration::from_secs(1)), [id(1)]);
    }

    #[test]
    fn an_interface_without_reservation_is_refused() {
        let error = leases(&["10.0.0.0/24"]).endpoint(&id(1), interface()).unwrap_err();
        assert_eq!(error, LeaseError::NotReserved(id(1)));
    }
}
