//! Routes of the host: those to the pods of other nodes are kept, all others only read.
use std::{collections::BTreeMap, net::IpAddr};

use agent_api::interface::NODE_ROUTE_PROTOCOL;
use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{NetError, Netlink, picture::Picture};

/// A route to the pods of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRoute {
    pub destination: IpNetwork,
    /// The address of another node. `None`: the pods are of this node, and an address that is none of theirs is
    /// unreachable.
    pub via: Option<IpAddr>,
}

/// Which of our routes may be removed when they are not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All: every node is known.
    All,
    /// Only these: not every node is known yet.
    Destinations(Vec<IpNetwork>),
}

impl Scope {
    fn holds(&self, destination: IpNetwork) -> bool {
        match self {
            Self::All => true,
            Self::Destinations(destinations) => destinations.contains(&destination),
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct RouteReport {
    pub written: usize,
    pub removed: usize,
    /// One for each route that could not be set or removed.
    pub errors: Vec<NetError>,
    /// The destinations of those that could not be set, or that another owner's route comes before.
    pub refused: Vec<IpNetwork>,
    /// What was not done, and would fail again as long as nothing else changes.
    pub left: Vec<Step>,
}

/// A route as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObservedRoute {
    pub(super) destination: IpNetwork,
    pub(super) via: Option<IpAddr>,
    pub(super) ifindex: u32,
    pub(super) protocol: u8,
    pub(super) priority: u32,
    /// Leads nowhere, and says so.
    pub(super) unreachable: bool,
}

impl ObservedRoute {
    const fn as_ours(&self) -> NodeRoute {
        NodeRoute { destination: self.destination, via: if self.unreachable { None } else { self.via } }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Add(NodeRoute),
    /// In place of our own route to the same destination.
    Replace(NodeRoute),
    Remove(NodeRoute),
    /// None: another owner's route to the same destination comes before ours, and decides.
    Yield(NodeRoute),
}

/// What to change. Foreign routes are left alone; one that does what is wanted is as good as ours.
fn plan(desired: &[NodeRoute], observed: &[ObservedRoute], prunable: &Scope) -> Vec<Step> {
    let mut by_destination: BTreeMap<IpNetwork, Vec<&ObservedRoute>> = BTreeMap::new();
    for route in observed {
        by_destination.entry(route.destination).or_default().push(route);
    }
    let mut steps = Vec::new();
    for wanted in desired {
        let there = by_destination.get(&wanted.destination).map_or(&[][..], Vec::as_slice);
        steps.extend(toward(*wanted, there));
    }
    let wanted: BTreeMap<IpNetwork, &NodeRoute> =
        desired.iter().map(|wanted| (wanted.destination, wanted)).collect();
    let unwanted = observed.iter().filter(|route| {
        route.protocol == NODE_ROUTE_PROTOCOL
            && !wanted.contains_key(&route.destination)
            && prunable.holds(route.destination)
    });
    steps.extend(unwanted.map(|route| Step::Remove(route.as_ours())));
    steps
}

/// What one destination needs, whose routes are these.
fn toward(wanted: NodeRoute, there: &[&ObservedRoute]) -> Vec<Step> {
    let is_right =
        |route: &ObservedRoute| route.via == wanted.via && route.unreachable == wanted.via.is_none();
    // The kernel takes the one with the lowest metric, of those the first.
    let decides = there.iter().min_by_key(|route| route.priority);
    if decides.is_some_and(|route| is_right(route)) {
        return Vec::new();
    }
    match there.iter().find(|route| route.protocol == NODE_ROUTE_PROTOCOL) {
        Some(known) if is_right(known) => vec![Step::Yield(wanted)],
        // The kernel does not replace a route of one kind by one of the other.
        Some(known) if known.unreachable != wanted.via.is_none() => {
            vec![Step::Remove(known.as_ours()), Step::Add(wanted)]
        }
        Some(_) => vec![Step::Replace(wanted)],
        None => vec![Step::Add(wanted)],
    }
}

impl Picture {
    /// What is to be changed about the routes to the pods of other nodes.
    pub(crate) fn node_route_steps(&self, desired: &[NodeRoute]) -> Vec<Step> {
        plan(desired, &self.routes, &Scope::All)
    }
}

impl Netlink {
    /// Makes the routes to the pods of other nodes as desired.
    ///
    /// # Errors
    /// If the routes cannot be listed. What cannot be changed is in the report; the rest is done.
    pub async fn sync_node_routes(
        &self,
        desired: &[NodeRoute],
        prunable: &Scope,
    ) -> Result<RouteReport, NetError> {
        let observed = self.routes().await?;
        let mut report = RouteReport::default();
        for step in plan(desired, &observed, prunable) {
            let (route, flag) = match step {
                Step::Add(route) => (route, NLM_F_EXCL),
                Step::Replace(route) => (route, NLM_F_REPLACE),
                Step::Remove(route) => {
                    match self.remove(route).await {
                        Ok(()) => report.removed += 1,
                        Err(error) => {
                            report.errors.push(error);
                            report.left.push(step);
                        }
                    }
                    continue;
                }
                Step::Yield(route) => {
                    report.refused.extend(route.via.map(|_| route.destination));
                    report.left.push(step);
                    continue;
                }
            };
            match self.set(route, flag).await {
                Ok(()) => report.written += 1,
                Err(error) => {
                    report.left.push(step);
                    // Somebody else's route decides about the addresses that no pod has.
                    if route.via.is_some() || error.errno() != Some(libc::EEXIST) {
                        report.errors.push(error);
                        report.refused.push(route.destination);
                    }
                }
            }
        }
        Ok(report)
    }

    async fn set(&self, route: NodeRoute, flag: u16) -> Result<(), NetError> {
        let NodeRoute { destination, via } = route;
        let what = || match via {
            None => format!("make addresses of {destination} that no pod has unreachable"),
            Some(via) => format!(
                "route the pods in {destination} through their node {via}: native routing needs the node on a directly \
                 connected network, and no other route to {destination}"
            ),
        };
        self.request(RouteNetlinkMessage::NewRoute(message(route)), NLM_F_CREATE | flag, &what)
            .await
            .map(drop)
    }

    async fn remove(&self, route: NodeRoute) -> Result<(), NetError> {
        let what = || format!("remove the route to {}", route.destination);
        match self.request(RouteNetlinkMessage::DelRoute(message(route)), 0, &what).await {
            Err(error) if error.errno() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// The unicast routes of the main table, and those of ours that lead nowhere.
    pub(super) async fn routes(&self) -> Result<Vec<ObservedRoute>, NetError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.push(RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
            let replies = self.dump(RouteNetlinkMessage::GetRoute(message), "list the routes").await?;
            routes.extend(replies.into_iter().filter_map(|reply| route_of(&reply)));
        }
        Ok(routes)
    }
}

fn message(route: NodeRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if route.destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: route.destination.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(NODE_ROUTE_PROTOCOL),
        scope: RouteScope::Universe,
        kind: if route.via.is_some() { RouteType::Unicast } else { RouteType::Unreachable },
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Destination(route.destination.ip().into()));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message
}

fn route_of(reply: &RouteNetlinkMessage) -> Option<ObservedRoute> {
    let RouteNetlinkMessage::NewRoute(message) = reply else { return None };
    let header = &message.header;
    let protocol: u8 = header.protocol.into();
    let unreachable = header.kind == RouteType::Unreachable && protocol == NODE_ROUTE_PROTOCOL;
    if header.table != RouteHeader::RT_TABLE_MAIN || !(unreachable || header.kind == RouteType::Unicast) {
        return None;
    }
    let is_v4 = header.address_family == AddressFamily::Inet;
    let mut destination = if is_v4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    let (mut via, mut ifindex, mut priority) = (None, 0, 0);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = address_of(address)?;
        } else if let RouteAttribute::Gateway(address) = attribute {
            via = address_of(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            ifindex = *index;
        } else if let RouteAttribute::Priority(value) = attribute {
            priority = *value;
        }
    }
    let destination = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
    Some(ObservedRoute { destination, via, ifindex, protocol, priority, unreachable })
}

pub(super) fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some((*v4).into())
    } else if let RouteAddress::Inet6(v6) = address {
        Some((*v6).into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: u8 = 4;

    fn wanted(destination: &str, via: &str) -> NodeRoute {
        NodeRoute { destination: destination.parse().unwrap(), via: Some(via.parse().unwrap()) }
    }

    fn observed(destination: &str, via: &str, protocol: u8) -> ObservedRoute {
        let NodeRoute { destination, via } = wanted(destination, via);
        ObservedRoute { destination, via, ifindex: 2, protocol, priority: 0, unreachable: false }
    }

    const A: (&str, &str) = ("10.1.0.0/24", "192.0.2.1");

    #[test]
    fn what_is_right_is_left_alone_whoever_made_it() {
        for protocol in [NODE_ROUTE_PROTOCOL, FOREIGN] {
            assert_eq!(plan(&[wanted(A.0, A.1)], &[observed(A.0, A.1, protocol)], &Scope::All), []);
        }
    }

    #[test]
    fn a_node_with_a_new_address_gets_its_route_replaced() {
        let moved = wanted(A.0, "192.0.2.9");
        let ours = observed(A.0, A.1, NODE_ROUTE_PROTOCOL);
        assert_eq!(plan(&[moved], &[ours], &Scope::All), [Step::Replace(moved)]);
    }

    #[test]
    fn a_route_of_another_kind_is_removed_before_the_new_one_is_added() {
        let ours = observed(A.0, A.1, NODE_ROUTE_PROTOCOL);
        let (via, own) = (wanted(A.0, A.1), NodeRoute { via: None, ..wanted(A.0, A.1) });
        assert_eq!(plan(&[own], &[ours], &Scope::All), [Step::Remove(via), Step::Add(own)]);
        let nowhere = ObservedRoute { via: None, unreachable: true, ..ours };
        assert_eq!(plan(&[own], &[nowhere], &Scope::All), []);
        assert_eq!(plan(&[via], &[nowhere], &Scope::All), [Step::Remove(own), Step::Add(via)]);
        assert_eq!(plan(&[], &[nowhere], &Scope::All), [Step::Remove(own)]);
    }

    #[test]
    fn a_foreign_route_is_never_replaced_or_removed() {
        let foreign = observed(A.0, A.1, FOREIGN);
        let moved = wanted(A.0, "192.0.2.9");
        assert_eq!(
            plan(&[moved], &[foreign], &Scope::All),
            [Step::Add(moved)],
            "the kernel refuses the duplicate"
        );
        assert_eq!(plan(&[], &[foreign], &Scope::All), []);
    }

    #[test]
    fn a_foreign_route_that_comes_before_ours_decides_and_one_behind_it_does_not() {
        let ours = ObservedRoute { priority: 1024, ..observed(A.0, A.1, NODE_ROUTE_PROTOCOL) };
        let foreign = |priority| ObservedRoute { priority, ..observed(A.0, "192.0.2.7", FOREIGN) };
        let wanted = wanted(A.0, A.1);
        let steps = |there: &[ObservedRoute]| plan(&[wanted], there, &Scope::All);
        assert_eq!(steps(&[foreign(512), ours]), [Step::Yield(wanted)]);
        assert_eq!(steps(&[foreign(1024), ours]), [Step::Yield(wanted)]);
        assert_eq!(steps(&[ours, foreign(1024)]), []);
        assert_eq!(steps(&[ours, foreign(2048)]), []);
    }

    #[test]
    fn routes_of_unknown_nodes_stay_until_all_nodes_are_known() {
        let ours = observed(A.0, A.1, NODE_ROUTE_PROTOCOL);
        assert_eq!(plan(&[], &[ours], &Scope::Destinations(Vec::new())), []);
        let removed = [Step::Remove(wanted(A.0, A.1))];
        assert_eq!(plan(&[], &[ours], &Scope::Destinations(vec![ours.destination])), removed);
        assert_eq!(plan(&[], &[ours], &Scope::All), removed);
    }
}
