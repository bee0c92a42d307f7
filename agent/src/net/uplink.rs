//! The interface towards the other nodes.
use std::net::IpAddr;

use agent_core::model::Family;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::{NetError, Netlink, route::ObservedRoute};

impl Netlink {
    /// All addresses of the node, with the index of their link.
    pub(super) async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, NetError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let replies = self.dump(message, "list the addresses").await?;
        Ok(replies.into_iter().filter_map(address_of).collect())
    }
}

/// Which link leads to the other nodes, by its index.
pub(super) fn choose(
    family: Family,
    node_addresses: &[IpAddr],
    addresses: &[(u32, IpAddr)],
    routes: &[ObservedRoute],
    is_usable: impl Fn(u32) -> bool,
) -> Option<u32> {
    let holder = addresses
        .iter()
        .filter(|(_, address)| Family::of(*address) == family && node_addresses.contains(address))
        .map(|(index, _)| *index)
        .find(|index| is_usable(*index));
    holder.or_else(|| {
        routes
            .iter()
            .filter(|route| route.destination.prefix() == 0 && Family::of(route.destination.ip()) == family)
            .filter(|route| is_usable(route.ifindex))
            .min_by_key(|route| route.priority)
            .map(|route| route.ifindex)
    })
}

pub(super) fn address_of(reply: RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = reply else { return None };
    // On point-to-point links `Address` is the peer's, and `Local` ours.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    let address = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
    });
    Some((message.header.index, local.or(address)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: u32 = 1;

    fn default_route(ifindex: u32, priority: u32) -> ObservedRoute {
        let destination = "0.0.0.0/0".parse().unwrap();
        ObservedRoute {
            destination,
            via: Some([192, 0, 2, 1].into()),
            ifindex,
            protocol: 3,
            priority,
            unreachable: false,
        }
    }

    fn chosen(node: &str, addresses: &[(u32, &str)], routes: &[ObservedRoute]) -> Option<u32> {
        let addresses: Vec<_> =
            addresses.iter().map(|(index, address)| (*index, address.parse().unwrap())).collect();
        choose(Family::V4, &[node.parse().unwrap()], &addresses, routes, |index| index != LOOPBACK)
    }

    #[test]
    fn the_link_with_the_nodes_address_wins_over_the_default_route() {
        assert_eq!(chosen("192.0.2.5", &[(3, "192.0.2.5")], &[default_route(2, 0)]), Some(3));
    }

    #[test]
    fn a_node_address_on_loopback_leaves_the_choice_to_the_default_route_of_least_metric() {
        let routes = [default_route(4, 200), default_route(2, 100)];
        assert_eq!(chosen("192.0.2.5", &[(LOOPBACK, "192.0.2.5")], &routes), Some(2));
    }

    #[test]
    fn without_either_there_is_no_uplink_of_the_family() {
        assert_eq!(chosen("2001:db8::5", &[(3, "2001:db8::5")], &[]), None);
    }
}
