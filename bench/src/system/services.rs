//! The services that every system is loaded with: the same names, addresses, ports and endpoints.
use std::net::{Ipv4Addr, SocketAddrV4};

/// Endpoints of every service.
pub(crate) const ENDPOINTS: usize = 4;

/// The namespace of all that is made.
pub(crate) const NAMESPACE: &str = "bench";

/// The port of a service, and the servers' port behind it.
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const SERVER_PORT: u16 = 8080;

/// A UDP service with one endpoint (the first), for packets whose way back must be known.
pub(crate) const SINGLE_NAME: &str = "single";
pub(crate) const SINGLE_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);
pub(crate) const SINGLE_PORT: u16 = 53;
pub(crate) const SINGLE_SERVER_PORT: u16 = 5353;

/// The first service's address; the others follow it. All are inside 10.96.0.0/12.
const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 0);

/// How many services there are: [`ServiceSet::count`] TCP services `svc-00000`… with [`ENDPOINTS`] endpoints each, and
/// the UDP service [`SINGLE_NAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceSet {
    pub(crate) count: usize,
}

impl ServiceSet {
    pub(crate) fn name(index: usize) -> String {
        format!("svc-{index:05}")
    }

    /// The address of a service, by index from 0.
    pub(crate) fn vip(index: usize) -> Ipv4Addr {
        let offset = u32::try_from(index).expect("at most 60,000 services");
        Ipv4Addr::from_bits(FIRST_VIP.to_bits() + offset)
    }

    pub(crate) fn frontend(index: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Self::vip(index), SERVICE_PORT)
    }

    /// The service in the middle of the list.
    pub(crate) const fn middle(self) -> usize {
        self.count / 2
    }
}
