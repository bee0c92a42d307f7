//! What the host's own network needs besides the maps and the routes: uplinks and forwarding.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use agent_core::{model::Family, render::NodeConfig};

use crate::{
    config::Config,
    dataplane::Dataplane,
    health::Problems,
    net::{NetError, Netlink, link::Link, sysctl::Sysctls},
    telemetry::chain,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// When an uplink that was not there is looked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Changes come in groups: how long the first one waits for the others.
const SETTLE: Duration = Duration::from_millis(100);

/// What problems with the uplinks are filed under.
const SUBJECT: &str = "uplink";

/// What problems with the programs on them are filed under.
const PROGRAM_SUBJECT: &str = "programs of uplinks";

/// The host's network.
#[derive(Debug)]
pub(super) struct Network {
    netlink: Netlink,
    sysctls: Sysctls,
    /// `--uplink`.
    wanted: Option<String>,
    problems: Problems,
    retry: Option<Instant>,
    /// Those that were found last.
    uplinks: Vec<Link>,
    /// Whether those that are Ethernet have their programs.
    is_attached: bool,
}

impl Network {
    pub(super) fn new(netlink: Netlink, config: &Config, problems: Problems) -> Self {
        let sysctls = Sysctls::at(&config.proc_sys, &config.state_dir);
        let wanted = config.uplink.clone();
        Self { netlink, sysctls, wanted, problems, retry: None, uplinks: Vec::new(), is_attached: false }
    }

    /// When to look again; `None` when nothing is missing.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Something changed: looks again soon.
    pub(super) fn look_again(&mut self, now: Instant) {
        let soon = now + SETTLE;
        self.retry = Some(self.retry.map_or(soon, |due| due.min(soon)));
    }

    /// Finds the uplinks, and makes the host forward what it needs to. Returns the largest MTU that fits all of
    /// them, when there is one.
    pub(super) async fn find_uplinks(
        &mut self,
        addresses: &[IpAddr],
        pod_families: &[Family],
        has_peers: bool,
        node: &mut NodeConfig,
    ) -> Result<Option<u32>, NetError> {
        self.retry = Some(Instant::now() + RETRY);
        let mut mtu = None;
        let mut uplinks: Vec<Link> = Vec::new();
        for family in FAMILIES {
            let link = self.uplink(family, addresses).await.inspect_err(|error| {
                self.problems.report(SUBJECT, &chain(error));
            })?;
            if pod_families.contains(&family) {
                self.forward(family, link.as_ref());
            }
            mtu = link.iter().map(|link| link.mtu).chain(mtu).min();
            let index = link.as_ref().map(|link| link.index);
            match family {
                Family::V4 => node.uplink_v4 = index,
                Family::V6 => node.uplink_v6 = index,
            }
            uplinks.extend(link.filter(|link| uplinks.iter().all(|known| known.index != link.index)));
        }
        self.uplinks = uplinks;
        if node.uplink_v4.or(node.uplink_v6).is_some() {
            self.problems.resolve(SUBJECT);
            self.retry = None;
            return Ok(mtu);
        }
        // A node alone needs none.
        if has_peers || self.wanted.is_some() {
            let sentence = self.wanted.as_ref().map_or_else(
                || {
                    "no interface has an address of this node or a default route; name one with --uplink"
                        .to_owned()
                },
                |name| format!("there is no interface {name}; correct --uplink"),
            );
            self.problems.report(SUBJECT, &sentence);
        }
        Ok(mtu)
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

    /// Puts the programs of uplinks where they belong.
    pub(super) fn attach(&mut self, dataplane: &mut Dataplane) {
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
            self.retry = Some(Instant::now() + RETRY);
        }
        if sentences.is_empty() {
            self.problems.resolve(PROGRAM_SUBJECT);
        } else {
            self.problems.report(PROGRAM_SUBJECT, &sentences.join("; "));
        }
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

    async fn uplink(&self, family: Family, addresses: &[IpAddr]) -> Result<Option<Link>, NetError> {
        match &self.wanted {
            Some(name) => self.netlink.link(name).await,
            None => self.netlink.uplink(family, addresses).await,
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
