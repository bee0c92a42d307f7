//! The node's network as it is at one moment: what is compared with what it must be.
use std::net::IpAddr;

use agent_api::interface::{HOST_IFNAME_PREFIX, NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL};
use agent_core::model::Family;
use dataplane_common::net::MacAddr;

use super::{NetError, Netlink, link::Link, route::ObservedRoute, uplink::choose};

/// All that the agent looks at.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<(u32, IpAddr)>,
    pub(super) routes: Vec<ObservedRoute>,
    /// The permanent ones.
    pub(super) neighbours: Vec<(u32, IpAddr, MacAddr)>,
}

/// The part of it that others make, and that decides about uplinks and ways to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    links: Vec<Link>,
    addresses: Vec<(u32, IpAddr)>,
    routes: Vec<ObservedRoute>,
}

impl Picture {
    /// The link of a name.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link of a family's traffic to other nodes: the one that holds the node's address, else the one of the
    /// default route.
    #[must_use]
    pub fn uplink(&self, family: Family, node_addresses: &[IpAddr]) -> Option<&Link> {
        let by_index = |index| self.links.iter().find(|link| link.index == index);
        let is_usable = |index| by_index(index).is_some_and(|link| !link.loopback);
        choose(family, node_addresses, &self.addresses, &self.routes, is_usable).and_then(by_index)
    }

    /// Pods come and go, and what is ours is compared with what is desired.
    pub(crate) fn surroundings(&self) -> Surroundings {
        let links: Vec<Link> =
            self.links.iter().filter(|link| !link.name.starts_with(HOST_IFNAME_PREFIX)).cloned().collect();
        let is_theirs = |index: u32| links.iter().any(|link| link.index == index);
        let addresses = self.addresses.iter().filter(|(index, _)| is_theirs(*index)).copied().collect();
        let ours = [NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL];
        let routes = self.routes.iter().filter(|route| !ours.contains(&route.protocol)).copied().collect();
        Surroundings { links, addresses, routes }
    }
}

impl Surroundings {
    /// Whether the links are the same as another time.
    pub(crate) fn has_links_of(&self, other: &Self) -> bool {
        self.links == other.links
    }
}

impl Netlink {
    /// Reads everything.
    ///
    /// # Errors
    /// If the kernel does not give consistent lists.
    pub async fn picture(&self) -> Result<Picture, NetError> {
        Ok(Picture {
            links: self.links().await?,
            addresses: self.addresses().await?,
            routes: self.routes().await?,
            neighbours: self.permanent_neighbours().await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::LinkState;

    fn picture() -> Picture {
        let link = |index, name: &str| Link {
            index,
            name: name.to_owned(),
            state: LinkState::Running,
            ..Link::default()
        };
        let route = |destination: &str, ifindex, protocol| ObservedRoute {
            destination: destination.parse().unwrap(),
            via: None,
            ifindex,
            protocol,
            priority: 0,
            unreachable: false,
        };
        Picture {
            links: vec![link(2, "eth0"), link(7, "mr0123456789ab")],
            addresses: vec![(2, [192, 0, 2, 1].into()), (7, "fe80::7".parse().unwrap())],
            routes: vec![
                route("192.0.2.0/24", 2, 2),
                route("10.1.0.5/32", 7, POD_ROUTE_PROTOCOL),
                route("10.2.0.0/24", 2, NODE_ROUTE_PROTOCOL),
            ],
            neighbours: vec![(7, [10, 1, 0, 5].into(), [2; 6])],
        }
    }

    #[test]
    fn pods_and_what_is_ours_are_not_the_surroundings() {
        let before = picture().surroundings();
        let Picture { mut links, mut addresses, mut routes, mut neighbours } = picture();
        links.pop();
        addresses.pop();
        routes.truncate(1);
        neighbours.clear();
        let after = Picture { links, addresses, routes, neighbours };
        assert_eq!(after.surroundings(), before);
    }

    #[test]
    fn a_link_an_address_and_a_route_of_others_are_the_surroundings() {
        let before = picture().surroundings();
        let mut down = picture();
        down.links[0].state = LinkState::Down;
        assert!(!down.surroundings().has_links_of(&before));
        let mut moved = picture();
        moved.addresses[0].1 = [192, 0, 2, 9].into();
        assert!(moved.surroundings().has_links_of(&before));
        let mut led_elsewhere = picture();
        led_elsewhere.routes[0].ifindex = 3;
        for changed in [down, moved, led_elsewhere] {
            assert_ne!(changed.surroundings(), before);
        }
    }
}
