//! What connects the nodes: a switch and router, and a client behind it.
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::machine::{netns::Netns, run::Run};

/// Addresses of the client outside.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);

/// The router's addresses on the nodes' side.
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(super) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);

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
             addr add {GATEWAY_V4}/24 dev switch\n\
             addr add {GATEWAY_V6}/64 dev switch nodad\n\
             link add client type veth peer name eth0 netns {}\n\
             link set client up\n\
             addr add 203.0.113.1/24 dev client\n\
             addr add 2001:db8:113::1/64 dev client nodad\n",
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
