//! What connects the nodes: a switch and router, and a client behind it.
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::machine::{netns::Netns, run::Run};

/// Addresses of the client outside.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);

/// A subnet of nodes, by its number: `192.168.N.0/24` and `fd00:N::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet(u8);

impl Subnet {
    /// The one of the switch.
    pub(super) const SWITCHED: Self = Self(77);

    /// The subnet of a node that has one of its own; that of the first node is the switch's.
    pub(super) const fn number(node: u8) -> Self {
        Self(Self::SWITCHED.0 + node - 1)
    }

    pub(super) const fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.0, host)
    }

    pub(super) fn v6(self, host: u16) -> Ipv6Addr {
        // Read as the decimal number is written.
        let group = u16::from(self.0 / 10) * 0x10 + u16::from(self.0 % 10);
        Ipv6Addr::new(0xfd00, group, 0, 0, 0, 0, 0, host)
    }

    /// The router's address there.
    pub(super) const fn gateway_v4(self) -> Ipv4Addr {
        self.v4(1)
    }

    /// As [`Self::gateway_v4`].
    pub(super) fn gateway_v6(self) -> Ipv6Addr {
        self.v6(1)
    }
}

/// The fabric's namespaces.
#[derive(Debug)]
pub struct Fabric {
    client: Netns,
    fabric: Netns,
}

impl Fabric {
    pub(super) fn build(run: &Run) -> Result<Self> {
        let fabric = new_netns(run, "fabric")?;
        let client = new_netns(run, "client")?;
        fabric.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        fabric.ip(&format!(
            "link add switch type bridge\n\
             link set switch up\n\
             addr add {}/24 dev switch\n\
             addr add {}/64 dev switch nodad\n\
             link add client type veth peer name eth0 netns {}\n\
             link set client up\n\
             addr add 203.0.113.1/24 dev client\n\
             addr add 2001:db8:113::1/64 dev client nodad\n",
            Subnet::SWITCHED.gateway_v4(),
            Subnet::SWITCHED.gateway_v6(),
            client.name()
        ))?;
        client.ip(&format!(
            "link set eth0 up\n\
             addr add {CLIENT_V4}/24 dev eth0\n\
             addr add {CLIENT_V6}/64 dev eth0 nodad\n\
             route add default via 203.0.113.1\n\
             route add default via 2001:db8:113::1\n"
        ))?;
        Ok(Self { client, fabric })
    }

    /// The namespace of the client outside.
    #[must_use]
    pub const fn client(&self) -> &Netns {
        &self.client
    }

    /// The namespace of switch and router.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.fabric
    }
}

/// A namespace without duplicate address detection, so that IPv6 addresses work at once.
pub(super) fn new_netns(run: &Run, part: &str) -> Result<Netns> {
    let netns = Netns::create(&run.part(part))?;
    netns.sysctl(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
    Ok(netns)
}
