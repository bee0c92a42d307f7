//! What changes in the node's own network while the agent runs.
use std::{collections::HashMap, sync::Arc, time::Duration};

use agent_api::interface::{HOST_IFNAME_PREFIX, NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL};
use dataplane_common::net::MacAddr;
use futures::StreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;

use super::{NetError, link::link_of};

/// When a subscription that ended is made again.
const RETRY: Duration = Duration::from_secs(5);

/// The kernel's table of local addresses.
const RT_TABLE_LOCAL: u8 = 255;

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// Notifies of every change that may concern the way to other nodes, as long as it is polled.
pub async fn notify_of_changes(changed: Arc<Notify>) {
    loop {
        if let Err(error) = follow(&changed).await {
            tracing::warn!("{}; trying again", crate::telemetry::chain(&error));
        }
        tokio::time::sleep(RETRY).await;
        // Whatever changed while nobody listened.
        changed.notify_one();
    }
}

/// Until the kernel ends the subscription.
async fn follow(changed: &Notify) -> Result<(), NetError> {
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(NetError::Open)?;
    let connection = tokio::spawn(connection);
    let mut filter = Filter::default();
    while let Some((message, _)) = messages.next().await {
        let concerns = if let NetlinkPayload::InnerMessage(message) = message.payload {
            filter.passes(message)
        } else {
            // Messages were lost.
            matches!(message.payload, NetlinkPayload::Overrun(_))
        };
        if concerns {
            changed.notify_one();
        }
    }
    connection.abort();
    Ok(())
}

/// Keeps out what pods come and go with, and what the agent does itself.
#[derive(Debug, Default)]
struct Filter {
    /// Address, MTU and state of the links that were heard of.
    links: HashMap<u32, (MacAddr, u32, bool)>,
}

impl Filter {
    fn passes(&mut self, message: RouteNetlinkMessage) -> bool {
        if let RouteNetlinkMessage::DelLink(message) = &message {
            return self.links.remove(&message.header.index).is_some();
        }
        if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = &message {
            return concerns(route);
        }
        link_of(message).is_some_and(|link| {
            let state = (link.mac, link.mtu, link.up);
            !link.name.starts_with(HOST_IFNAME_PREFIX) && self.links.insert(link.index, state) != Some(state)
        })
    }
}

fn concerns(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.table != RT_TABLE_LOCAL
        && ![NODE_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL].contains(&header.protocol.into())
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        link::{LinkAttribute, LinkMessage},
        route::{RouteHeader, RouteProtocol},
    };

    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
        RouteNetlinkMessage::NewLink(message)
    }

    fn route(table: u8, protocol: u8) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.table = table;
        message.header.protocol = RouteProtocol::from(protocol);
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn a_link_concerns_when_its_mtu_changes_and_those_of_pods_never_do() {
        let mut filter = Filter::default();
        assert!(filter.passes(link(2, "eth0", 1500)));
        assert!(!filter.passes(link(2, "eth0", 1500)), "said again");
        assert!(filter.passes(link(2, "eth0", 1400)));
        assert!(!filter.passes(link(3, "mr0123456789ab", 1500)));
        let mut gone = LinkMessage::default();
        for (index, concerns) in [(2, true), (3, false)] {
            gone.header.index = index;
            assert_eq!(filter.passes(RouteNetlinkMessage::DelLink(gone.clone())), concerns);
        }
    }

    #[test]
    fn a_route_concerns_unless_it_is_ours_or_local() {
        let main = RouteHeader::RT_TABLE_MAIN;
        let cases = [
            (main, 3, true),
            (100, 186, true),
            (main, POD_ROUTE_PROTOCOL, false),
            (main, NODE_ROUTE_PROTOCOL, false),
            (RT_TABLE_LOCAL, 2, false),
        ];
        for (table, protocol, expected) in cases {
            assert_eq!(Filter::default().passes(route(table, protocol)), expected, "{table} {protocol}");
        }
    }
}
