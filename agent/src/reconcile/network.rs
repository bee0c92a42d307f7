//! What the host's own network needs besides the maps and the routes: uplinks and forwarding.
use std::net::IpAddr;

use agent_core::{model::Family, render::NodeConfig};

use crate::{
    config::Config,
    dataplane::Dataplane,
    health::Problems,
    net::{
        link::{Link, LinkState},
        picture::Picture,
        sysctl::Sysctls,
    },
    telemetry::chain,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What problems with the uplinks are filed under.
const SUBJECT: &str = "uplink";

/// What problems with the programs on them are filed under.
const PROGRAM_SUBJECT: &str = "programs of uplinks";

/// The host's network.
#[derive(Debug)]
pub(super) struct Network {
    sysctls: Sysctls,
    /// `--uplink`.
    wanted: Option<String>,
    problems: Problems,
    /// Those that were found last.
    uplinks: Vec<Link>,
    /// Whether those that are Ethernet have their programs.
    is_attached: bool,
    /// What is wrong with the uplinks.
    unmet: Vec<String>,
}

/// What the cluster says about this node's part of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) pod_families: Vec<Family>,
    /// There are other nodes.
    pub(super) has_peers: bool,
}

impl Network {
    pub(super) fn new(config: &Config, problems: Problems) -> Self {
        let sysctls = Sysctls::at(&config.proc_sys, &config.state_dir);
        let wanted = config.uplink.clone();
        Self { sysctls, wanted, problems, uplinks: Vec::new(), is_attached: false, unmet: Vec::new() }
    }

    /// Finds the uplinks, and makes the host forward what it needs to. Returns the largest MTU that fits all of
    /// them, when there is one.
    pub(super) fn find_uplinks(
        &mut self,
        picture: &Picture,
        role: &Role,
        node: &mut NodeConfig,
    ) -> Option<u32> {
        let found = FAMILIES.map(|family| (family, self.uplink(picture, family, &role.addresses)));
        let mut mtu = None;
        let mut uplinks: Vec<Link> = Vec::new();
        for (family, link) in found {
            if role.pod_families.contains(&family) {
                self.forward(family, link);
            }
            mtu = link.into_iter().map(|link| link.mtu).chain(mtu).min();
            let index = link.map(|link| link.index);
            match family {
                Family::V4 => node.uplink_v4 = index,
                Family::V6 => node.uplink_v6 = index,
            }
            let is_new = |link: &&Link| uplinks.iter().all(|known| known.index != link.index);
            uplinks.extend(link.filter(is_new).cloned());
        }
        // A node alone needs none.
        self.unmet = if role.has_peers || self.wanted.is_some() {
            flaws(found, &role.addresses, self.wanted.as_deref())
        } else {
            Vec::new()
        };
        self.uplinks = uplinks;
        if self.unmet.is_empty() {
            self.problems.resolve(SUBJECT);
        } else {
            self.problems.report(SUBJECT, &self.unmet.join("; "));
        }
        mtu
    }

    /// What is wrong with the uplinks: one sentence each.
    pub(super) fn unmet(&self) -> impl Iterator<Item = String> {
        self.unmet.iter().map(|sentence| format!("{SUBJECT}: {sentence}"))
    }

    /// Which uplink each family has, as people name it.
    pub(super) fn uplinks_in_words(&self, node: &NodeConfig) -> String {
        let words = [(Family::V4, node.uplink_v4), (Family::V6, node.uplink_v6)].map(|(family, index)| {
            let link = self.uplinks.iter().find(|link| Some(link.index) == index);
            link.map_or_else(
                || format!("no {family} uplink"),
                |link| format!("{family} uplink {}", link.name),
            )
        });
        words.join(", ")
    }

    /// Puts the programs of uplinks where they belong. Whether they are there.
    pub(super) fn attach(&mut self, dataplane: &mut Dataplane) -> bool {
        let (ethernet, others): (Vec<&Link>, Vec<&Link>) =
            self.uplinks.iter().partition(|link| link.ethernet);
        let places = ethernet.iter().map(|link| (link.name.clone(), link.index)).collect();
        let mut sentences: Vec<String> = others
            .iter()
            .map(|link| {
                format!(
                    "{} is no Ethernet interface: what other nodes' pods send comes in through the host's stack and meets \
                     its firewall, which must let it pass",
                    link.name
                )
            })
            .collect();
        let attached = dataplane.attach_uplinks(places);
        self.is_attached = attached.is_ok();
        if let Err(error) = attached {
            sentences.push(format!("{}; trying again", chain(&error)));
        }
        if sentences.is_empty() {
            self.problems.resolve(PROGRAM_SUBJECT);
        } else {
            self.problems.report(PROGRAM_SUBJECT, &sentences.join("; "));
        }
        self.is_attached
    }

    /// The uplink of this index, if it has its programs.
    pub(super) fn hooked(&self, index: u32) -> Option<&Link> {
        self.uplinks.iter().find(|link| self.is_attached && link.ethernet && link.index == index)
    }

    pub(super) fn uplink_names(&self) -> Vec<String> {
        self.uplinks.iter().map(|link| link.name.clone()).collect()
    }

    /// The uplinks by which other nodes' pods reach ours through the stack, while the other direction passes it.
    pub(super) fn half_open(&self) -> Vec<String> {
        self.uplinks.iter().filter(|link| !link.ethernet).map(|link| link.name.clone()).collect()
    }

    fn uplink<'a>(&self, picture: &'a Picture, family: Family, addresses: &[IpAddr]) -> Option<&'a Link> {
        match &self.wanted {
            Some(name) => picture.link(name),
            None => picture.uplink(family, addresses),
        }
    }

    fn forward(&self, family: Family, uplink: Option<&Link>) {
        let subject = format!("forwarding of {family}");
        match self.sysctls.ensure_forwarding(family, uplink.map(|link| link.name.as_str())) {
            Ok(changed) => {
                if changed {
                    tracing::info!("switched on forwarding of {family}");
                }
                self.problems.resolve(&subject);
            }
            Err(error) => self.problems.report(&subject, &chain(&error)),
        }
    }
}

/// What is wrong with the uplinks that were found, or not: a sentence each.
fn flaws(
    found: [(Family, Option<&Link>); 2],
    node_addresses: &[IpAddr],
    wanted: Option<&str>,
) -> Vec<String> {
    let is_none = found.iter().all(|(_, link)| link.is_none());
    let of_family = |(family, link): (Family, Option<&Link>)| match link {
        Some(Link { name, state: LinkState::Down, .. }) => {
            Some(format!("{name} is down, and with it the way to the other nodes: `ip link set {name} up`"))
        }
        Some(Link { name, state: LinkState::NoCarrier, .. }) => Some(format!(
            "{name} has no carrier, so that nothing reaches the other nodes: check what it is connected to"
        )),
        Some(_) => None,
        None if is_none => Some(wanted.map_or_else(
            || {
                "no interface has an address of this node or a default route; name one with --uplink"
                    .to_owned()
            },
            |name| format!("there is no interface {name}; correct --uplink"),
        )),
        None => {
            let address = node_addresses.iter().find(|address| Family::of(**address) == family)?;
            Some(format!(
                "no interface has this node's address {address}, and there is no default route of {family}: set one of \
                 them again, or name an interface with --uplink"
            ))
        }
    };
    let mut sentences: Vec<String> = found.into_iter().filter_map(of_family).collect();
    sentences.dedup();
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(state: LinkState) -> Link {
        Link { name: "eth0".to_owned(), index: 2, state, ..Link::default() }
    }

    fn sentences(v4: Option<&Link>, v6: Option<&Link>, addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        flaws([(Family::V4, v4), (Family::V6, v6)], &addresses, None)
    }

    #[test]
    fn an_uplink_that_carries_nothing_is_named_once() {
        let [good, dead, down] = [LinkState::Running, LinkState::NoCarrier, LinkState::Down].map(link);
        assert_eq!(sentences(Some(&good), Some(&good), &["192.0.2.1"]), [""; 0]);
        for (bad, what) in [(&dead, "no carrier"), (&down, "is down")] {
            let said = sentences(Some(bad), Some(bad), &[]);
            assert!(matches!(&said[..], [one] if one.contains("eth0") && one.contains(what)), "{said:?}");
        }
    }

    #[test]
    fn a_family_without_an_uplink_is_missed_where_the_node_has_an_address_of_it() {
        let good = link(LinkState::Running);
        assert_eq!(sentences(Some(&good), None, &["192.0.2.1"]), [""; 0]);
        let said = sentences(Some(&good), None, &["192.0.2.1", "2001:db8::1"]);
        assert!(matches!(&said[..], [one] if one.contains("2001:db8::1")), "{said:?}");
        let said = sentences(None, None, &["192.0.2.1", "2001:db8::1"]);
        assert!(matches!(&said[..], [one] if one.contains("--uplink")), "{said:?}");
    }
}
