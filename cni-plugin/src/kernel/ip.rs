//! Addresses, routes and neighbours.
use std::{io, net::IpAddr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use nix::libc::ENETUNREACH;

use super::{Netlink, netlink::errno};

/// A route out of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNetwork,
    /// Taken to be reachable through the interface, whatever its addresses are.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
    pub(crate) table: u32,
    /// Of several routes to one destination the one with the lowest is taken.
    pub(crate) metric: u32,
}

impl Route {
    /// The main table, which is looked into unless a rule names another.
    pub(crate) const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
}

/// A neighbour that is never asked for its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) address: IpAddr,
    pub(crate) mac: [u8; 6],
    pub(crate) ifindex: u32,
}

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some((*v4).into())
    } else if let RouteAddress::Inet6(v6) = address {
        Some((*v6).into())
    } else {
        None
    }
}

impl Netlink {
    /// Gives an interface an address. IPv6 does not look for duplicates: the agent has made sure.
    pub(crate) fn add_address(&mut self, ifindex: u32, address: IpNetwork) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip());
        message.header.prefix_len = address.prefix();
        message.header.index = ifindex;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Local(address.ip()));
        message.attributes.push(AddressAttribute::Address(address.ip()));
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// The addresses of an interface.
    pub(crate) fn addresses(&mut self, ifindex: u32) -> io::Result<Vec<IpAddr>> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let replies = self.dump(&RouteNetlinkMessage::GetAddress(message))?;
        let address = |reply| {
            let RouteNetlinkMessage::NewAddress(message) = reply else { return None };
            let of_another = message.header.index != ifindex;
            message.attributes.into_iter().filter(|_| !of_another).find_map(|attribute| {
                if let AddressAttribute::Address(address) = attribute { Some(address) } else { None }
            })
        };
        Ok(replies.into_iter().filter_map(address).collect())
    }

    /// Whether the kernel takes packets to an address for its own.
    pub(crate) fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = IpNetwork::from(address).prefix();
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let is_local = |reply: &RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewRoute(route) = reply else { return false };
            route.header.kind == RouteType::Local
        };
        match self.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(replies) => Ok(replies.iter().any(is_local)),
            Err(error) if errno(&error) == Some(ENETUNREACH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets a route, in place of another one to the same destination.
    pub(crate) fn set_route(&mut self, route: Route, protocol: u8) -> io::Result<()> {
        self.request(route_message(route, protocol), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Adds a route beside those there are. The same route twice is an error.
    pub(crate) fn add_route(&mut self, route: Route, protocol: u8) -> io::Result<()> {
        self.request(route_message(route, protocol), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// The routes to somewhere else, of every table: out of an interface, or out of all.
    pub(crate) fn routes(&mut self, ifindex: Option<u32>) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.extend(ifindex.map(RouteAttribute::Oif));
            let replies = self.dump(&RouteNetlinkMessage::GetRoute(message))?;
            let wanted = |route: &Route| ifindex.is_none_or(|ifindex| route.ifindex == ifindex);
            routes.extend(replies.into_iter().filter_map(route_of).filter(wanted));
        }
        Ok(routes)
    }

    /// Sets a permanent neighbour.
    pub(crate) fn set_neighbour(&mut self, neighbour: Neighbour) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour.address);
        message.header.ifindex = neighbour.ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        let destination = match neighbour.address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }
}

fn route_message(route: Route, protocol: u8) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.destination.ip()),
        destination_prefix_length: route.destination.prefix(),
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::from(protocol),
        scope: if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        flags: if route.gateway.is_some() { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    if route.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    if route.destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.ip().into()));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    RouteNetlinkMessage::NewRoute(message)
}

fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let is_v4 = message.header.address_family == AddressFamily::Inet;
    let unspecified = if is_v4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    let (mut destination, mut gateway, mut ifindex, mut metric) = (unspecified, None, 0, 0);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = route_address(address)?;
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = route_address(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            ifindex = *index;
        } else if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Priority(number) = attribute {
            metric = *number;
        }
    }
    let destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, gateway, ifindex, table, metric })
}
