//! How the host's own stack reaches a pod: by an interface that is up, a route to the pod's address and a permanent
//! neighbour. The CNI plugin makes them; here they are compared with what is there, and put back.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use agent_api::interface::POD_ROUTE_PROTOCOL;
use agent_core::model::ObjectName;
use dataplane_common::net::MacAddr;
use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{NetError, Netlink, picture::Picture, route::ObservedRoute};

/// What the kernel makes of a metric that nobody gave (`IP6_RT_PRIO_USER`).
const USUAL_METRIC_V6: u32 = 1024;

/// The way to one address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodPath<'a> {
    pub(crate) pod: &'a ObjectName,
    pub(crate) ifname: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: MacAddr,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The interface is down. The kernel has removed the rest with it.
    Down,
    /// The neighbour is not there, or not this one.
    Neighbour,
    /// Nothing leads to the address, or something else does.
    Route {
        /// Ours is there, behind another one.
        is_behind: bool,
    },
    /// A route with a lower metric leads elsewhere: whoever gave it one wants it so.
    Overridden { metric: u32 },
}

impl PodPath<'_> {
    /// What is wrong, as people name it.
    pub(crate) fn in_words(&self, flaw: Flaw) -> String {
        let Self { pod, ifname, address, .. } = self;
        match flaw {
            Flaw::Down => format!("pod {pod}: its interface {ifname} was down"),
            Flaw::Neighbour => {
                format!("pod {pod}: the host's neighbour entry of {address} on {ifname} was not right")
            }
            Flaw::Route { .. } => {
                format!("pod {pod}: the host's route to {address} through {ifname} was not there")
            }
            Flaw::Overridden { metric } => format!(
                "pod {pod}: another route to {address}, of metric {metric}, comes before the one through {ifname}: remove it"
            ),
        }
    }
}

impl Picture {
    /// What is wrong with the ways to pods, in the order in which it is to be put right. An interface that is gone is
    /// nobody's way.
    pub(crate) fn flaws<'a>(&self, paths: impl Iterator<Item = PodPath<'a>>) -> Vec<(PodPath<'a>, Flaw)> {
        let is_up: BTreeMap<u32, bool> =
            self.links.iter().map(|link| (link.index, link.state.is_up())).collect();
        let neighbours: BTreeMap<(u32, IpAddr), MacAddr> =
            self.neighbours.iter().map(|(ifindex, address, mac)| ((*ifindex, *address), *mac)).collect();
        let mut routes: BTreeMap<IpAddr, Vec<&ObservedRoute>> = BTreeMap::new();
        for route in self.routes.iter().filter(|route| is_host(route.destination)) {
            routes.entry(route.destination.ip()).or_default().push(route);
        }
        let mut down = BTreeSet::new();
        let mut flaws = Vec::new();
        for path in paths {
            let Some(is_up) = is_up.get(&path.ifindex) else { continue };
            if !is_up && down.insert(path.ifindex) {
                flaws.push((path, Flaw::Down));
            }
            if neighbours.get(&(path.ifindex, path.address)) != Some(&path.mac) {
                flaws.push((path, Flaw::Neighbour));
            }
            let there = routes.get(&path.address).map_or(&[][..], Vec::as_slice);
            flaws.extend(flaw_of_route(&path, there).map(|flaw| (path, flaw)));
        }
        flaws
    }
}

fn is_host(destination: IpNetwork) -> bool {
    destination.prefix() == if destination.is_ipv4() { 32 } else { 128 }
}

/// Of the routes to one address the kernel takes the one with the lowest metric, of those the first.
fn flaw_of_route(path: &PodPath<'_>, there: &[&ObservedRoute]) -> Option<Flaw> {
    let is_ours = |route: &ObservedRoute| {
        route.protocol == POD_ROUTE_PROTOCOL && route.ifindex == path.ifindex && route.via.is_none()
    };
    let usual = if path.address.is_ipv4() { 0 } else { USUAL_METRIC_V6 };
    match there.iter().min_by_key(|route| route.priority) {
        Some(first) if is_ours(first) => None,
        Some(first) if first.priority < usual && there.iter().any(|route| is_ours(route)) => {
            Some(Flaw::Overridden { metric: first.priority })
        }
        _ => Some(Flaw::Route { is_behind: there.iter().any(|route| is_ours(route)) }),
    }
}

impl Netlink {
    /// Puts right what is wrong with the way to a pod.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) async fn mend(&self, path: &PodPath<'_>, flaw: Flaw) -> Result<(), NetError> {
        let what = || {
            let PodPath { pod, ifname, address, .. } = path;
            match flaw {
                Flaw::Down => format!("bring up the interface {ifname} of pod {pod}"),
                Flaw::Neighbour => format!("set the neighbour entry of {address} on {ifname}, of pod {pod}"),
                Flaw::Route { .. } | Flaw::Overridden { .. } => {
                    format!("set the route to {address} through {ifname}, of pod {pod}")
                }
            }
        };
        let (message, flags) = match flaw {
            Flaw::Overridden { .. } => return Ok(()),
            Flaw::Down => {
                let mut message = LinkMessage::default();
                message.header.index = path.ifindex;
                message.header.flags = LinkFlags::Up;
                message.header.change_mask = LinkFlags::Up;
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            Flaw::Neighbour => {
                (RouteNetlinkMessage::NewNeighbour(neighbour(path)), NLM_F_CREATE | NLM_F_REPLACE)
            }
            Flaw::Route { is_behind } => {
                if is_behind {
                    // The kernel does not put a route that is there in front of another one.
                    self.request(RouteNetlinkMessage::DelRoute(route(path)), 0, &what).await?;
                }
                // In place of another route to the address, which nobody but the pod has.
                (RouteNetlinkMessage::NewRoute(route(path)), NLM_F_CREATE | NLM_F_REPLACE)
            }
        };
        self.request(message, flags, &what).await.map(drop)
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn neighbour(path: &PodPath<'_>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(path.address);
    message.header.ifindex = path.ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    let destination = match path.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(path.mac.to_vec()));
    message
}

fn route(path: &PodPath<'_>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(path.address),
        destination_prefix_length: IpNetwork::from(path.address).prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(POD_ROUTE_PROTOCOL),
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Destination(path.address.into()));
    message.attributes.push(RouteAttribute::Oif(path.ifindex));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::{Link, LinkState};

    const MAC: MacAddr = [2, 0, 0, 0, 0, 7];
    const FOREIGN: u8 = 3;

    fn route(address: IpAddr, ifindex: u32, protocol: u8, priority: u32) -> ObservedRoute {
        ObservedRoute {
            destination: address.into(),
            via: None,
            ifindex,
            protocol,
            priority,
            unreachable: false,
        }
    }

    fn link(index: u32) -> Link {
        Link { index, state: LinkState::Running, ..Link::default() }
    }

    /// Both addresses of a pod, and a network in which nothing is wrong with them.
    fn pod() -> ([IpAddr; 2], Picture) {
        let addresses: [IpAddr; 2] = ["10.1.0.5".parse().unwrap(), "fd01::5".parse().unwrap()];
        let [v4, v6] = addresses;
        let picture = Picture {
            links: vec![link(2), link(7)],
            routes: vec![route(v4, 7, POD_ROUTE_PROTOCOL, 0), route(v6, 7, POD_ROUTE_PROTOCOL, 1024)],
            neighbours: vec![(7, v4, MAC), (7, v6, MAC)],
            ..Picture::default()
        };
        (addresses, picture)
    }

    fn flaws(picture: &Picture, addresses: [IpAddr; 2]) -> Vec<(IpAddr, Flaw)> {
        let pod = ObjectName::new("default", "pod");
        let path = |address| PodPath { pod: &pod, ifname: "mr7", ifindex: 7, address, mac: MAC };
        let flaws = picture.flaws(addresses.into_iter().map(path));
        flaws.into_iter().map(|(path, flaw)| (path.address, flaw)).collect()
    }

    #[test]
    fn what_is_right_has_no_flaw_and_an_interface_that_is_gone_is_no_way() {
        let (addresses, mut picture) = pod();
        assert_eq!(flaws(&picture, addresses), []);
        picture.links.pop();
        picture.routes.clear();
        assert_eq!(flaws(&picture, addresses), []);
    }

    #[test]
    fn an_interface_that_is_down_has_lost_the_rest_and_is_brought_up_once_and_first() {
        let (addresses, mut picture) = pod();
        let [v4, v6] = addresses;
        picture.links[1].state = LinkState::Down;
        picture.routes.clear();
        picture.neighbours.clear();
        let lost = Flaw::Route { is_behind: false };
        let expected =
            [(v4, Flaw::Down), (v4, Flaw::Neighbour), (v4, lost), (v6, Flaw::Neighbour), (v6, lost)];
        assert_eq!(flaws(&picture, addresses), expected);
    }

    #[test]
    fn a_neighbour_with_another_address_is_as_bad_as_none() {
        let (addresses, mut picture) = pod();
        let [v4, v6] = addresses;
        picture.neighbours = vec![(7, v4, [2; 6]), (2, v6, MAC)];
        assert_eq!(flaws(&picture, addresses), [(v4, Flaw::Neighbour), (v6, Flaw::Neighbour)]);
    }

    #[test]
    fn a_route_elsewhere_is_replaced_unless_its_metric_says_that_somebody_wants_it() {
        let (addresses, picture) = pod();
        let [v4, v6] = addresses;
        let with = |routes: Vec<ObservedRoute>| flaws(&Picture { routes, ..picture.clone() }, addresses);
        let ours = picture.routes.clone();
        assert_eq!(with(vec![ours[0]]), [(v6, Flaw::Route { is_behind: false })]);
        assert_eq!(
            with(vec![route(v4, 2, FOREIGN, 0), ours[0], ours[1]]),
            [(v4, Flaw::Route { is_behind: true })]
        );
        assert_eq!(with(vec![ours[0], route(v4, 2, FOREIGN, 0), ours[1]]), [], "behind ours");
        assert_eq!(
            with(vec![route(v4, 2, FOREIGN, 0), ours[1]]),
            [(v4, Flaw::Route { is_behind: false })],
            "in its place"
        );
        assert_eq!(
            with(vec![ours[0], route(v6, 2, FOREIGN, 5), ours[1]]),
            [(v6, Flaw::Overridden { metric: 5 })]
        );
    }
}
