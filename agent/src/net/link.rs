//! Links.
use dataplane_common::net::MacAddr;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
};

use super::{NetError, Netlink};

/// Whether a link carries packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Somebody set it down, or nobody up.
    #[default]
    Down,
    /// Up, and nobody is at the other end, as far as the device can tell.
    NoCarrier,
    Running,
}

impl LinkState {
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::NoCarrier | Self::Running)
    }
}

/// What the agent looks at in a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: MacAddr,
    pub mtu: u32,
    pub alias: String,
    pub state: LinkState,
    pub loopback: bool,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
}

impl Netlink {
    /// The link of a name.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let what = || format!("look up the link {name}");
        match self.request(RouteNetlinkMessage::GetLink(message), 0, &what).await {
            Ok(replies) => Ok(replies.into_iter().find_map(link_of)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a link, and with it its peer. A link that is gone is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_link(&self, index: u32, name: &str) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = || format!("delete the interface {name}");
        match self.request(RouteNetlinkMessage::DelLink(message), 0, &what).await {
            Err(error) if error.errno() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    /// All links.
    ///
    /// # Errors
    /// If the kernel does not give a consistent list.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.dump(message, "list the links").await?.into_iter().filter_map(link_of).collect())
    }
}

const fn state_of(flags: LinkFlags) -> LinkState {
    if !flags.contains(LinkFlags::Up) {
        LinkState::Down
    } else if flags.contains(LinkFlags::LowerUp) {
        LinkState::Running
    } else {
        LinkState::NoCarrier
    }
}

pub(super) fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        state: state_of(flags),
        loopback: flags.contains(LinkFlags::Loopback),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        ..Link::default()
    };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = mtu;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = alias;
        } else if let LinkAttribute::Address(mac) = attribute {
            // Tunnels have addresses of other lengths.
            link.mac = mac.try_into().unwrap_or_default();
        }
    }
    Some(link)
}
