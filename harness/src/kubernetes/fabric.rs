//! What connects the machines of a cluster: a switch with the control plane and the nodes, a router, and a client
//! outside that knows no pod and no service.
use anyhow::{Context as _, Result};

use super::{address::Families, name::ClusterName};
use crate::machine::netns::Netns;

/// The interface of every machine towards the others.
pub const UPLINK: &str = "eth0";

const SWITCH: &str = "switch";

/// The namespaces between the machines. They stay when this value is dropped: the cluster outlives its maker.
#[derive(Debug)]
pub struct Fabric {
    families: Families,
    router: Netns,
    client: Netns,
}

impl Fabric {
    /// Makes switch, router and client.
    pub fn build(name: &ClusterName, families: Families) -> Result<Self> {
        let router = new_netns(name, "fabric")?;
        let client = new_netns(name, "client")?;
        router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        router.ip(&format!(
            "link add {SWITCH} type bridge\n\
             link set {SWITCH} up\n\
             link add client type veth peer name {UPLINK} netns {}\n\
             link set client up\n",
            client.name()
        ))?;
        client.ip(&format!("link set {UPLINK} up"))?;
        for family in families.each() {
            let length = family.prefix_length();
            let (inside, outside) = (family.gateway(), family.client_gateway());
            router.ip(&format!(
                "addr add {inside}/{length} dev {SWITCH}\naddr add {outside}/{length} dev client\n"
            ))?;
            client.ip(&format!(
                "addr add {}/{length} dev {UPLINK}\nroute add default via {outside}\n",
                family.client()
            ))?;
        }
        Ok(Self { families, router, client })
    }

    /// The fabric of a cluster that is up.
    pub fn open(name: &ClusterName, families: Families) -> Result<Self> {
        let (router, client) = (Netns::open(&name.part("fabric"))?, Netns::open(&name.part("client"))?);
        Ok(Self { families, router, client })
    }

    /// The client outside.
    #[must_use]
    pub const fn client(&self) -> &Netns {
        &self.client
    }

    /// Switch and router.
    #[must_use]
    pub const fn router(&self) -> &Netns {
        &self.router
    }

    /// Makes the namespace of a machine on the switch.
    pub fn attach(
        &self,
        name: &ClusterName,
        machine: &str,
        address: impl Fn(super::address::Family) -> std::net::IpAddr,
    ) -> Result<Netns> {
        let netns = new_netns(name, machine)?;
        self.router.ip(&format!(
            "link add {machine} type veth peer name {UPLINK} netns {}\n\
             link set {machine} master {SWITCH}\n\
             link set {machine} up\n",
            netns.name()
        ))?;
        netns.ip(&format!("link set {UPLINK} up"))?;
        for family in self.families.each() {
            let length = family.prefix_length();
            netns.ip(&format!(
                "addr add {}/{length} dev {UPLINK}\nroute add default via {}\n",
                address(*family),
                family.gateway()
            ))?;
        }
        Ok(netns)
    }

    /// Unplugs a machine from the switch. One that is not plugged in is no error.
    pub fn detach(&self, machine: &str) -> Result<()> {
        let is_there = self.router.run(|| nix::net::if_::if_nametoindex(machine).is_ok())?;
        if is_there { self.router.ip(&format!("link del {machine}")) } else { Ok(()) }
    }
}

/// A namespace without duplicate address detection, so that IPv6 addresses work at once. It lasts until the cluster is
/// taken down.
pub(super) fn new_netns(name: &ClusterName, part: &str) -> Result<Netns> {
    let netns = Netns::create_lasting(&name.part(part)).with_context(|| format!("network of {part}"))?;
    netns.sysctl(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
    Ok(netns)
}
