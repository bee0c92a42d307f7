//! What the host's stack would do with a packet.
use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::{NetError, Netlink, route::address_of};

/// Where the host's stack sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub ifindex: u32,
    /// `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Where the host's stack sends packets to an address, with every rule and table that it has. `None`: nowhere.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn next_hop(&self, to: IpAddr) -> Result<Option<NextHop>, NetError> {
        let mut message = RouteMessage::default();
        let (family, bits) =
            if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        message.header.address_family = family;
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(to.into()));
        let what = || format!("ask the kernel for the way to {to}");
        match self.request(RouteNetlinkMessage::GetRoute(message), 0, &what).await {
            Ok(replies) => Ok(replies.iter().find_map(next_hop_of)),
            // It says so by the error that a socket would get, whichever that is for the route's type.
            Err(error) if error.errno().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn next_hop_of(reply: &RouteNetlinkMessage) -> Option<NextHop> {
    let RouteNetlinkMessage::NewRoute(message) = reply else { return None };
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut ifindex, mut gateway) = (None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            ifindex = Some(*index);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = address_of(address);
        } else if let RouteAttribute::Via(via) = attribute {
            // A gateway of the other family (RFC 5549).
            gateway = if let RouteVia::Inet(v4) = via {
                Some((*v4).into())
            } else if let RouteVia::Inet6(v6) = via {
                Some((*v6).into())
            } else {
                return None;
            };
        }
    }
    Some(NextHop { ifindex: ifindex?, gateway })
}
