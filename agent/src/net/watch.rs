//! What changes in the node's own network while the agent runs.
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use agent_api::interface::{HOST_IFNAME_PREFIX, NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL};
use dataplane_common::net::MacAddr;
use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::RouteMessage,
};
use nix::net::if_::if_indextoname;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;

use super::{
    NetError,
    link::{LinkState, link_of},
    uplink::address_of,
};

/// When a subscription that ended is made again.
const RETRY: Duration = Duration::from_secs(5);

/// The kernel's table of local addresses.
const RT_TABLE_LOCAL: u8 = 255;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// What the kernel told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Others changed something that may decide about the way to other nodes.
    Surroundings,
    /// Something of ours may be gone: a route, a neighbour, an interface that is up.
    Entries,
}

/// Where changes are told of. Several that come before anybody looks are one.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub surroundings: Arc<Notify>,
    pub entries: Arc<Notify>,
}

impl Changes {
    fn note(&self, change: Change) {
        match change {
            Change::Surroundings => self.surroundings.notify_one(),
            Change::Entries => self.entries.notify_one(),
        }
    }
}

/// Tells of every change that may concern pods or the way to other nodes, as long as it is polled.
pub async fn notify_of_changes(changes: Changes) {
    loop {
        if let Err(error) = follow(&changes).await {
            tracing::warn!("{}; trying again", crate::telemetry::chain(&error));
        }
        tokio::time::sleep(RETRY).await;
        // Whatever changed while nobody listened.
        changes.note(Change::Surroundings);
    }
}

/// Until the kernel ends the subscription.
async fn follow(changes: &Changes) -> Result<(), NetError> {
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(NetError::Open)?;
    let connection = tokio::spawn(connection);
    let mut filter = Filter::default();
    while let Some((message, _)) = messages.next().await {
        let change = if let NetlinkPayload::InnerMessage(message) = message.payload {
            filter.change(message, is_of_pod)
        } else if matches!(message.payload, NetlinkPayload::Overrun(_)) {
            tracing::info!("the kernel told of more changes than were read in time: looking at everything");
            Some(Change::Surroundings)
        } else {
            None
        };
        if let Some(change) = change {
            changes.note(change);
        }
    }
    connection.abort();
    Ok(())
}

/// Whether an interface that exists is the host side of a pod's.
fn is_of_pod(ifindex: u32) -> bool {
    if_indextoname(ifindex).is_ok_and(|name| name.to_bytes().starts_with(HOST_IFNAME_PREFIX.as_bytes()))
}

/// Keeps out what pods come and go with, and what the agent does itself.
#[derive(Debug, Default)]
struct Filter {
    /// Address, MTU and state of the links that were heard of.
    links: HashMap<u32, (MacAddr, u32, LinkState)>,
    /// Addresses of links that are no pod's. The kernel tells again and again how long they are valid.
    addresses: HashSet<(u32, IpAddr)>,
}

impl Filter {
    fn change(&mut self, message: RouteNetlinkMessage, is_of_pod: impl Fn(u32) -> bool) -> Option<Change> {
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewAddress, NewNeighbour, NewRoute, NewRule,
        };
        let surroundings = |concerns: bool| concerns.then_some(Change::Surroundings);
        if let DelLink(message) = &message {
            let known = self.links.remove(&message.header.index);
            return surroundings(known.is_some() && !is_pod_link(message));
        }
        if let NewRoute(route) = &message {
            return surroundings(is_foreign(route));
        }
        if let DelRoute(route) = &message {
            return if is_ours(route) { Some(Change::Entries) } else { surroundings(is_foreign(route)) };
        }
        if let NewNeighbour(neighbour) | DelNeighbour(neighbour) = &message {
            return is_of_pod(neighbour.header.ifindex).then_some(Change::Entries);
        }
        if let NewRule(_) | DelRule(_) = &message {
            return Some(Change::Surroundings);
        }
        if let NewAddress(_) = &message {
            let address = address_of(message).filter(|(ifindex, _)| !is_of_pod(*ifindex));
            return surroundings(address.is_some_and(|address| self.addresses.insert(address)));
        }
        if let DelAddress(gone) = message {
            let address = address_of(NewAddress(gone)).filter(|(ifindex, _)| !is_of_pod(*ifindex));
            if let Some(address) = &address {
                self.addresses.remove(address);
            }
            return surroundings(address.is_some());
        }
        let link = link_of(message)?;
        let state = (link.mac, link.mtu, link.state);
        let known = self.links.insert(link.index, state);
        if link.name.starts_with(HOST_IFNAME_PREFIX) {
            let is_cut = known.is_some_and(|(.., before)| before.is_up()) && !link.state.is_up();
            return is_cut.then_some(Change::Entries);
        }
        surroundings(known != Some(state))
    }
}

fn is_pod_link(message: &LinkMessage) -> bool {
    message.attributes.iter().any(
        |attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(HOST_IFNAME_PREFIX)),
    )
}

fn is_ours(route: &RouteMessage) -> bool {
    [NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL].contains(&route.header.protocol.into())
}

fn is_foreign(route: &RouteMessage) -> bool {
    route.header.table != RT_TABLE_LOCAL && !is_ours(route)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::LinkFlags,
        neighbour::NeighbourMessage,
        route::{RouteHeader, RouteProtocol},
        rule::RuleMessage,
    };

    use super::*;

    const POD: u32 = 7;

    fn link(index: u32, name: &str, mtu: u32, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
        RouteNetlinkMessage::NewLink(message)
    }

    fn gone(link: RouteNetlinkMessage) -> RouteNetlinkMessage {
        let RouteNetlinkMessage::NewLink(message) = link else { panic!("a link") };
        RouteNetlinkMessage::DelLink(message)
    }

    fn route(table: u8, protocol: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = table;
        message.header.protocol = RouteProtocol::from(protocol);
        message
    }

    fn address(index: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Address([192, 0, 2, 1].into())];
        message
    }

    fn change(filter: &mut Filter, message: RouteNetlinkMessage) -> Option<Change> {
        filter.change(message, |ifindex| ifindex == POD)
    }

    #[test]
    fn a_link_concerns_when_its_mtu_or_its_state_changes() {
        let mut filter = Filter::default();
        let running = LinkFlags::Up | LinkFlags::LowerUp;
        let mut eth0 = |mtu, flags| change(&mut filter, link(2, "eth0", mtu, flags));
        assert_eq!(eth0(1500, running), Some(Change::Surroundings));
        assert_eq!(eth0(1500, running), None, "said again");
        assert_eq!(eth0(1400, running), Some(Change::Surroundings));
        assert_eq!(eth0(1400, LinkFlags::Up), Some(Change::Surroundings), "no carrier");
        assert_eq!(eth0(1400, LinkFlags::empty()), Some(Change::Surroundings));
        let eth0 = gone(link(2, "eth0", 1400, running));
        assert_eq!(change(&mut filter, eth0.clone()), Some(Change::Surroundings));
        assert_eq!(change(&mut filter, eth0), None, "told of another time, by the bridge that it was in");
    }

    #[test]
    fn the_link_of_a_pod_concerns_only_when_it_goes_down() {
        let mut filter = Filter::default();
        let pod = |flags| link(POD, "mr0123456789ab", 1500, flags);
        for flags in [LinkFlags::empty(), LinkFlags::Up, LinkFlags::Up | LinkFlags::LowerUp] {
            assert_eq!(change(&mut filter, pod(flags)), None, "{flags:?}");
        }
        assert_eq!(change(&mut filter, pod(LinkFlags::empty())), Some(Change::Entries));
        assert_eq!(change(&mut filter, gone(pod(LinkFlags::empty()))), None);
    }

    #[test]
    fn a_route_of_ours_concerns_when_it_goes_and_others_but_local_ones_always() {
        use RouteNetlinkMessage::{DelRoute, NewRoute};
        let main = RouteHeader::RT_TABLE_MAIN;
        let cases = [
            (main, 3, Some(Change::Surroundings), Some(Change::Surroundings)),
            (100, 186, Some(Change::Surroundings), Some(Change::Surroundings)),
            (main, POD_ROUTE_PROTOCOL, None, Some(Change::Entries)),
            (main, NODE_ROUTE_PROTOCOL, None, Some(Change::Entries)),
            (RT_TABLE_LOCAL, 2, None, None),
        ];
        for (table, protocol, when_new, when_gone) in cases {
            let route = route(table, protocol);
            let mut filter = Filter::default();
            assert_eq!(change(&mut filter, NewRoute(route.clone())), when_new, "{table} {protocol}");
            assert_eq!(change(&mut filter, DelRoute(route)), when_gone, "{table} {protocol}");
        }
    }

    #[test]
    fn an_address_concerns_once_and_those_of_pods_never() {
        use RouteNetlinkMessage::{DelAddress, NewAddress};
        let mut filter = Filter::default();
        assert_eq!(change(&mut filter, NewAddress(address(2))), Some(Change::Surroundings));
        assert_eq!(change(&mut filter, NewAddress(address(2))), None, "said again");
        assert_eq!(change(&mut filter, DelAddress(address(2))), Some(Change::Surroundings));
        assert_eq!(change(&mut filter, NewAddress(address(2))), Some(Change::Surroundings));
        assert_eq!(change(&mut filter, NewAddress(address(POD))), None);
        assert_eq!(change(&mut filter, DelAddress(address(POD))), None);
    }

    #[test]
    fn neighbours_concern_on_the_interfaces_of_pods_and_rules_always() {
        use RouteNetlinkMessage::{DelNeighbour, DelRule, NewNeighbour, NewRule};
        let mut filter = Filter::default();
        for (ifindex, expected) in [(2, None), (POD, Some(Change::Entries))] {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = ifindex;
            assert_eq!(change(&mut filter, NewNeighbour(message.clone())), expected);
            assert_eq!(change(&mut filter, DelNeighbour(message)), expected);
        }
        for rule in [NewRule(RuleMessage::default()), DelRule(RuleMessage::default())] {
            assert_eq!(change(&mut filter, rule), Some(Change::Surroundings));
        }
    }
}
