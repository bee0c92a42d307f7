//! Links.
use std::{io, os::fd::AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
};
use nix::libc::{EEXIST, ENODEV};

use super::{Netlink, netlink::errno};
use crate::netns::Netns;

/// What the plugin looks at in a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) alias: String,
    /// Administratively up.
    pub(crate) up: bool,
    /// Up and ready to send.
    pub(crate) running: bool,
}

/// A pair of interfaces to make.
pub(crate) struct Veth<'a> {
    pub(crate) host_ifname: &'a str,
    pub(crate) host_mac: [u8; 6],
    pub(crate) pod_ifname: &'a str,
    pub(crate) pod_mac: [u8; 6],
    pub(crate) pod_netns: &'a Netns,
    pub(crate) mtu: u32,
}

impl Netlink {
    /// The link of a name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(replies) => Ok(replies.into_iter().find_map(link_of)),
            Err(error) if errno(&error) == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.dump(&message)?.into_iter().filter_map(link_of).collect())
    }

    /// Makes a pair of interfaces, both down, one of them in the pod's namespace from the start. `false`: a name is taken.
    ///
    /// Each has one queue, as a veth has unless somebody sets more. Said in the request, it costs nothing; unsaid, the
    /// kernel makes one for each CPU and takes them away again, and waits under its lock on all interfaces until nobody
    /// uses them (`veth_init_queues` in drivers/net/veth.c, seen in v6.18): twice for each pod.
    pub(crate) fn create(&mut self, veth: &Veth<'_>) -> io::Result<bool> {
        let side = |name: &str, mac: [u8; 6]| {
            vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(veth.mtu),
                LinkAttribute::Address(mac.to_vec()),
                LinkAttribute::NumTxQueues(1),
                LinkAttribute::NumRxQueues(1),
            ]
        };
        let mut peer = LinkMessage::default();
        peer.attributes = side(veth.pod_ifname, veth.pod_mac);
        peer.attributes.push(LinkAttribute::NetNsFd(veth.pod_netns.file().as_raw_fd()));
        let mut message = LinkMessage::default();
        message.attributes = side(veth.host_ifname, veth.host_mac);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        match self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Some(EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Deletes a link, and with it its peer. Deleting what is gone is success.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if errno(&error) != Some(ENODEV) => Err(error),
            _ => Ok(()),
        }
    }
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, up, ..Link::default() };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Address(mac) = attribute {
            link.mac = mac;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = alias;
        } else if let LinkAttribute::OperState(state) = attribute {
            link.running = up && state == State::Up;
        }
    }
    Some(link)
}
