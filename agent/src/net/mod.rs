//! The node's own network: links, routes, uplinks and sockets, by netlink. The only module that imports `rtnetlink`.
//!
//! Works in the network namespace that the agent was started in. Everything made here carries a mark (a name prefix, a
//! link alias, a route protocol), and nothing without the mark is ever changed.
pub(crate) mod clsact;
pub mod firewall;
pub mod link;
pub mod next_hop;
pub mod picture;
pub mod pod_interface;
pub(crate) mod pod_path;
mod raw;
pub mod route;
pub mod sockets;
pub mod sysctl;
pub mod uplink;
pub mod watch;

use std::io;

use futures::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

/// Other programs change the tables while they are dumped; that many dumps are thrown away before giving up.
const DUMP_ATTEMPTS: usize = 10;

/// What the kernel did not do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("cannot {what}")]
    Refused {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot {what}: the connection to the kernel has ended")]
    Closed { what: String },
    #[error("cannot {what}: the table kept changing while it was read")]
    Unsteady { what: String },
}

impl NetError {
    /// The kernel's error number, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Closed { .. } | Self::Unsteady { .. } => None,
        }
    }
}

/// A connection to the kernel's network configuration.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a connection, served by a task of its own that ends with the last handle.
    ///
    /// # Errors
    /// If there is no netlink.
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Asks for a change, or for one object.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let replies = self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, what).await?;
        replies.ok_or_else(|| NetError::Unsteady { what: what() })
    }

    /// Asks for all objects of a kind: a consistent list or an error.
    async fn dump(
        &self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        for _ in 0..DUMP_ATTEMPTS {
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            if let Some(replies) = self.exchange(message.clone(), flags, &|| what.to_owned()).await? {
                return Ok(replies);
            }
        }
        Err(NetError::Unsteady { what: what.to_owned() })
    }

    /// Sends a message and collects the replies. `None`: they are not a consistent list, which the requests of
    /// `rtnetlink` itself do not notice.
    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetError> {
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = flags;
        let mut stream =
            self.handle.clone().request(packet).map_err(|_| NetError::Closed { what: what() })?;
        let mut replies = Vec::new();
        let mut consistent = true;
        while let Some(reply) = stream.next().await {
            consistent &= reply.header.flags & NLM_F_DUMP_INTR == 0;
            if let NetlinkPayload::InnerMessage(message) = reply.payload {
                replies.push(message);
            } else if let NetlinkPayload::Error(error) = reply.payload
                && error.code.is_some()
            {
                return Err(NetError::Refused { what: what(), source: error.to_io() });
            }
        }
        Ok(consistent.then_some(replies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_link_is_found_by_its_name_and_in_the_list() {
        let netlink = Netlink::open().unwrap();
        let by_name = netlink.link("lo").await.unwrap().expect("a loopback link");
        assert!(netlink.links().await.unwrap().contains(&by_name));
        assert_eq!(by_name.mac, [0; 6]);
    }

    #[tokio::test]
    async fn a_link_that_is_not_there_is_no_error() {
        let netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link("mrnosuchlink").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_refused_change_says_what_was_wanted() {
        let netlink = Netlink::open().unwrap();
        let route = route::NodeRoute {
            destination: "10.255.255.0/24".parse().unwrap(),
            via: Some([0, 0, 0, 1].into()),
        };
        let report = netlink.sync_node_routes(&[route], &route::Scope::Destinations(Vec::new())).await;
        // Without privileges the change is refused, with them the gateway is.
        let error = report.unwrap().errors.pop().expect("an error").to_string();
        assert!(error.contains("10.255.255.0/24") && error.contains("0.0.0.1"), "{error}");
    }
}
