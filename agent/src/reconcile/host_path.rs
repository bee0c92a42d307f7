//! How packets that processes of the host send to services leave it: by an uplink whose programs translate them, or not.
//! Sockets are left to that path only where there is one.
use std::net::IpAddr;

use agent_core::{entry::Way, model::Family};
use dataplane_common::route::HostPath;
use ipnetwork::IpNetwork;

use super::Reconciler;
use crate::{
    net::{NetError, next_hop::NextHop},
    telemetry::chain,
};

/// What problems with it are filed under.
const SUBJECT: &str = "the host's way to services";

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What the programs were told.
#[derive(Clone, Debug)]
pub(super) struct HostPaths {
    /// For these addresses of services; `None`: the network may have changed.
    told_for: Option<Vec<IpNetwork>>,
    paths: [HostPath; 2],
}

impl HostPaths {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { told_for: None, paths: [HostPath::NONE; 2] }
    }

    /// The host's network changed.
    pub(super) fn look_again(&mut self) {
        self.told_for = None;
    }
}

impl Reconciler {
    /// Tells the programs how packets of the host to services leave it, when that may have changed.
    pub(super) async fn tell_host_paths(&mut self) {
        let services: Vec<IpNetwork> = self.state.service_prefixes().collect();
        if self.host_paths.told_for.as_ref() == Some(&services) {
            return;
        }
        match self.find_host_paths(&services).await {
            Ok(paths) => self.host_paths.paths = paths,
            Err(error) => return self.problems.report(SUBJECT, &chain(&error)),
        }
        match self.dataplane.set_host_paths(self.host_paths.paths) {
            Ok(()) => {
                self.host_paths.told_for = Some(services);
                self.problems.resolve(SUBJECT);
            }
            Err(error) => self.problems.report(SUBJECT, &chain(&error)),
        }
    }

    async fn find_host_paths(&self, services: &[IpNetwork]) -> Result<[HostPath; 2], NetError> {
        let mut paths = self.host_paths.paths;
        for (path, family) in paths.iter_mut().zip(FAMILIES) {
            // Without services of a family there is nothing to ask for, and flows to those that are gone may go on.
            let Some(prefix) = services.iter().find(|prefix| Family::of(prefix.network()) == family) else {
                continue;
            };
            let (first, last) = ends(*prefix);
            let hops = [self.netlink.next_hop(first).await?, self.netlink.next_hop(last).await?];
            let uplink = leaving(hops).and_then(|index| self.network.hooked(index));
            let by_stack = self
                .node
                .detours
                .iter()
                .any(|(cidr, way)| *way == Way::Stack && Family::of(cidr.network()) == family);
            *path = uplink.map_or(HostPath::NONE, |link| HostPath {
                ifindex: link.index,
                mac: link.mac,
                // The programs reach every backend, or the socket is to choose one that it reaches.
                takes_sockets: u16::from(!by_stack),
            });
        }
        Ok(paths)
    }
}

/// The first and the last address.
fn ends(prefix: IpNetwork) -> (IpAddr, IpAddr) {
    (prefix.network(), prefix.broadcast())
}

/// The interface that packets leave by, if it is one, and if a router on it takes them: whom the host asks for itself does
/// not answer for the address of a service.
fn leaving(hops: [Option<NextHop>; 2]) -> Option<u32> {
    let [first, last] = hops.map(|hop| hop.filter(|hop| hop.gateway.is_some()).map(|hop| hop.ifindex));
    first.filter(|_| first == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_by_one_interface_and_a_router_or_sockets_choose() {
        let by = |ifindex| Some(NextHop { ifindex, gateway: Some([192, 0, 2, 1].into()) });
        let on_link = Some(NextHop { ifindex: 2, gateway: None });
        assert_eq!(leaving([by(2), by(2)]), Some(2));
        assert_eq!(leaving([by(2), by(3)]), None, "two ways");
        for hop in [None, on_link] {
            assert_eq!(leaving([by(2), hop]), None);
            assert_eq!(leaving([hop, by(2)]), None);
            assert_eq!(leaving([hop, hop]), None);
        }
    }

    #[test]
    fn the_ends_of_what_holds_the_services_are_asked_for() {
        for (prefix, first, last) in [
            ("10.96.0.0/12", "10.96.0.0", "10.111.255.255"),
            ("10.96.0.1/32", "10.96.0.1", "10.96.0.1"),
            ("fd96::/112", "fd96::", "fd96::ffff"),
        ] {
            let expected: (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(ends(prefix.parse().unwrap()), expected);
        }
    }
}
