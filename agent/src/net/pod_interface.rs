//! The host sides of the pods' interfaces, with all that the kernel knows of them.
use std::net::IpAddr;

use agent_api::interface::{HOST_IFNAME_PREFIX, POD_ROUTE_PROTOCOL};
use dataplane_common::net::MacAddr;
use ipnetwork::IpNetwork;
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{NetError, Netlink, picture::Picture};
use crate::ipam::{Living, Survivor};

impl Netlink {
    /// The interfaces that the CNI plugin made and that still exist.
    ///
    /// # Errors
    /// If the kernel does not give consistent lists: no list is better than a short one, which would free addresses
    /// that live.
    pub async fn pod_interfaces(&self) -> Result<Vec<Survivor>, NetError> {
        Ok(interfaces_in(&self.picture().await?))
    }

    /// All that tells which addresses are in use.
    ///
    /// # Errors
    /// As [`Self::pod_interfaces`].
    pub async fn living(&self) -> Result<Living, NetError> {
        let picture = self.picture().await?;
        let interfaces = interfaces_in(&picture);
        let own = |address: &IpAddr| interfaces.iter().any(|interface| interface.addresses.contains(address));
        let destinations = picture.routes.iter().map(|route| route.destination);
        // What leads to a single address leads to a pod of another network.
        let is_single = |to: &IpNetwork| to.prefix() == if to.is_ipv4() { 32 } else { 128 };
        let routed = destinations.filter(is_single).map(|to| to.ip());
        let of_host = picture.addresses.iter().map(|(_, address)| *address);
        let foreign = routed.chain(of_host).filter(|address| !own(address)).collect();
        Ok(Living { interfaces, foreign, pinned: Vec::new() })
    }

    pub(super) async fn permanent_neighbours(&self) -> Result<Vec<(u32, IpAddr, MacAddr)>, NetError> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let replies = self.dump(message, "list the neighbours").await?;
        Ok(replies.into_iter().filter_map(neighbour_of).collect())
    }
}

/// The interfaces of pods that a picture shows.
fn interfaces_in(picture: &Picture) -> Vec<Survivor> {
    let Picture { links, routes, neighbours, .. } = picture;
    let ours = links.iter().filter(|link| link.name.starts_with(HOST_IFNAME_PREFIX));
    let interfaces = ours.map(|link| {
        let label = link.alias.parse().ok();
        let routes = routes.iter().filter(|route| {
            route.ifindex == link.index && route.protocol == POD_ROUTE_PROTOCOL && route.via.is_none()
        });
        let addresses: Vec<IpAddr> = routes.map(|route| route.destination.ip()).collect();
        let pod_mac = neighbours
            .iter()
            .find(|(ifindex, address, _)| *ifindex == link.index && addresses.contains(address))
            .map(|(_, _, mac)| *mac);
        Survivor {
            host_ifname: link.name.clone(),
            host_ifindex: link.index,
            host_mac: link.mac,
            label,
            pod_mac,
            addresses,
        }
    });
    // A bridge may be called `mr0`: only what has a label or a route of ours is ours.
    interfaces.filter(|interface| interface.label.is_some() || !interface.addresses.is_empty()).collect()
}

fn neighbour_of(reply: RouteNetlinkMessage) -> Option<(u32, IpAddr, MacAddr)> {
    use netlink_packet_route::neighbour::NeighbourAddress::{Inet, Inet6};
    let RouteNetlinkMessage::NewNeighbour(message) = reply else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        if let NeighbourAttribute::Destination(Inet(v4)) = attribute {
            address = Some(v4.into());
        } else if let NeighbourAttribute::Destination(Inet6(v6)) = attribute {
            address = Some(v6.into());
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = bytes.try_into().ok();
        }
    }
    Some((message.header.ifindex, address?, mac?))
}
