//! Keeping the node's network as it must be, whoever changes it: uplinks, routes to other nodes, and the ways of the
//! host's stack to the pods of this node.
//!
//! The kernel's notifications say when to look; what is there is always read as a whole, and at least every
//! [`LEVEL`], so that a lost one costs time and nothing else.
use std::time::{Duration, Instant};

use agent_core::model::{Family, endpoint::Endpoint};

use super::{Reconciler, network::Role};
use crate::{
    net::{
        picture::{Picture, Surroundings},
        pod_path::{Flaw, PodPath},
        route::{NodeRoute, Step},
    },
    telemetry::chain,
};

/// Everything is compared this often, also when nobody said that something changed.
const LEVEL: Duration = Duration::from_secs(30);

/// Changes come in groups: how long the first one waits for the others.
const SETTLE: Duration = Duration::from_millis(100);

/// Between two looks, however much changes.
const PAUSE: Duration = Duration::from_millis(500);

/// When what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// After its programs are attached, the CNI plugin makes the rest of a pod's way within this.
const YOUNG: Duration = Duration::from_secs(2);

/// What problems with reading the network are filed under.
const READING: &str = "network";
/// What problems with the ways to pods are filed under.
const PATHS: &str = "ways to pods";

/// When the network is looked at, and what was found.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) due: Instant,
    last: Option<Instant>,
    /// Something may have changed that is not in what is compared: rules, other tables, or what was lost.
    is_forced: bool,
    surroundings: Option<Surroundings>,
    /// The routes to other nodes as they were set last, and what of them could not be.
    direct: Vec<NodeRoute>,
    left: Vec<Step>,
    routes_unmet: Vec<String>,
    paths_unmet: Vec<String>,
    /// Interfaces that the plugin is still at work on, and until when.
    young: Vec<(u32, Instant)>,
    repairs: u64,
}

impl Upkeep {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            due: now,
            last: None,
            is_forced: false,
            surroundings: None,
            direct: Vec::new(),
            left: Vec::new(),
            routes_unmet: Vec::new(),
            paths_unmet: Vec::new(),
            young: Vec::new(),
            repairs: 0,
        }
    }

    /// Others changed the network.
    pub(super) fn surroundings_changed(&mut self, now: Instant) {
        self.is_forced = true;
        self.look_soon(now);
    }

    /// Something of ours may be gone.
    pub(super) fn entries_changed(&mut self, now: Instant) {
        self.look_soon(now);
    }

    fn look_soon(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + PAUSE);
        self.due = self.due.min((now + SETTLE).max(earliest));
    }

    /// Something failed that may succeed later, without anybody telling.
    pub(super) fn try_again(&mut self, now: Instant) {
        self.is_forced = true;
        self.due = self.due.min(now + RETRY);
    }

    /// The plugin makes an endpoint's way at this moment.
    pub(super) fn spare(&mut self, endpoint: &Endpoint, now: Instant) {
        self.young.push((endpoint.host_ifindex, now + YOUNG));
    }

    /// A look begins. Returns whether everything is to be found out, whatever it shows.
    fn begin(&mut self, now: Instant) -> bool {
        self.last = Some(now);
        self.due = now + LEVEL;
        self.young.retain(|(_, until)| *until > now);
        // What is lost meanwhile is found when the plugin is done.
        let done = self.young.iter().map(|(_, until)| *until).min();
        self.due = done.map_or(self.due, |done| done.max(now + PAUSE).min(self.due));
        std::mem::take(&mut self.is_forced)
    }

    /// Takes in what became of the routes to other nodes.
    pub(super) fn routes_set(&mut self, direct: Vec<NodeRoute>, left: Vec<Step>, unmet: Vec<String>) {
        (self.direct, self.left, self.routes_unmet) = (direct, left, unmet);
    }

    /// What of the network could not be put right: one sentence each.
    pub(super) fn unmet(&self) -> impl Iterator<Item = String> {
        self.routes_unmet.iter().chain(&self.paths_unmet).cloned()
    }
}

impl Reconciler {
    /// Looks at the network if it is time, or if this node's object changed. Comes before the first rendering: without
    /// uplinks every route would go.
    pub(super) async fn keep_network(&mut self) {
        let now = Instant::now();
        let own = self.state.node(&self.node.node_name);
        let is_unknown = self.state.is_synced() && (self.own.as_ref() != own || !self.uplinks_chosen);
        if self.upkeep.due > now && !is_unknown {
            return;
        }
        let is_forced = self.upkeep.begin(now);
        let picture = match self.netlink.picture().await {
            Ok(picture) => picture,
            Err(error) => {
                self.upkeep.try_again(now);
                return self.problems.report(READING, &chain(&error));
            }
        };
        self.problems.resolve(READING);
        self.mend_paths(&picture, now).await;
        if self.state.is_synced() {
            self.follow_surroundings(&picture, is_forced || is_unknown);
        }
    }

    /// Chooses the uplinks, and has whatever follows from them looked at again when something changed.
    fn follow_surroundings(&mut self, picture: &Picture, is_forced: bool) {
        self.own = self.state.node(&self.node.node_name).cloned();
        let cidrs = self.own.iter().flat_map(|node| &node.pod_cidrs);
        let role = Role {
            addresses: self.own.as_ref().map(|node| node.addresses.clone()).unwrap_or_default(),
            pod_families: cidrs.map(|cidr| Family::of(cidr.network())).collect(),
            has_peers: self.state.nodes().len() > 1,
        };
        let before = self.node.clone();
        self.mtu = self.network.find_uplinks(picture, &role, &mut self.node);
        self.uplinks_chosen = true;
        let surroundings = picture.surroundings();
        let known = self.upkeep.surroundings.as_ref();
        if known.is_some_and(|known| !surroundings.has_links_of(known)) {
            // Links of programs go with their interfaces.
            self.guard.due = Instant::now();
        }
        let is_same = known == Some(&surroundings) && self.node == before;
        self.upkeep.surroundings = Some(surroundings);
        if is_same && !is_forced {
            // Ours may be gone nonetheless.
            self.routes_due |= picture.node_route_steps(&self.upkeep.direct) != self.upkeep.left;
            return;
        }
        self.routes_due = true;
        self.host_paths.look_again();
        if !self.network.attach(&mut self.dataplane) {
            self.upkeep.try_again(Instant::now());
        }
        if self.node != before {
            tracing::info!("{}", self.network.uplinks_in_words(&self.node));
            self.pending.extend(self.every_route());
        }
    }

    /// Puts right the ways of the host's stack to the pods of this node.
    async fn mend_paths(&mut self, picture: &Picture, now: Instant) {
        let is_young = |ifindex| self.upkeep.young.iter().any(|(young, _)| *young == ifindex);
        let endpoints = self.state.endpoints().filter(|endpoint| !is_young(endpoint.host_ifindex));
        let paths = endpoints.flat_map(|endpoint| {
            endpoint.ips.iter().map(|address| PodPath {
                pod: &endpoint.pod,
                ifname: &endpoint.host_ifname,
                ifindex: endpoint.host_ifindex,
                address: *address,
                mac: endpoint.pod_mac,
            })
        });
        let (mut mended, mut unmet, mut is_refused) = (Vec::new(), Vec::new(), false);
        for (path, flaw) in picture.flaws(paths) {
            match self.netlink.mend(&path, flaw).await {
                Ok(()) if matches!(flaw, Flaw::Overridden { .. }) => unmet.push(path.in_words(flaw)),
                Ok(()) => mended.push(path.in_words(flaw)),
                // The interface went meanwhile.
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                Err(error) => {
                    is_refused = true;
                    unmet.push(format!("{}; trying again", chain(&error)));
                }
            }
        }
        if !mended.is_empty() {
            self.upkeep.repairs += 1;
            tracing::warn!("{}; put right (repair {} of this agent)", mended.join("; "), self.upkeep.repairs);
        }
        if is_refused {
            self.upkeep.try_again(now);
        }
        self.upkeep.paths_unmet = unmet;
        if self.upkeep.paths_unmet.is_empty() {
            self.problems.resolve(PATHS);
        } else {
            self.problems.report(PATHS, &self.upkeep.paths_unmet.join("; "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_looked_at_together_and_not_without_a_pause() {
        let now = Instant::now();
        let mut upkeep = Upkeep::new(now);
        assert!(!upkeep.begin(now));
        assert_eq!(upkeep.due, now + LEVEL);
        upkeep.entries_changed(now + SETTLE);
        assert_eq!(upkeep.due, now + PAUSE, "the last look was a moment ago");
        upkeep.surroundings_changed(now + SETTLE * 2);
        assert_eq!(upkeep.due, now + PAUSE, "the second is in the same group");
        assert!(upkeep.begin(now + PAUSE), "one of them was no entry of ours");
        let later = now + LEVEL;
        upkeep.entries_changed(later);
        assert_eq!(upkeep.due, later + SETTLE);
        assert!(!upkeep.begin(later + SETTLE));
        upkeep.try_again(later + SETTLE);
        assert_eq!(upkeep.due, later + SETTLE + RETRY);
        assert!(upkeep.begin(upkeep.due));
    }

    #[test]
    fn a_young_pod_is_looked_at_as_soon_as_the_plugin_is_done() {
        let now = Instant::now();
        let mut upkeep = Upkeep::new(now);
        upkeep.young.push((7, now + YOUNG));
        upkeep.begin(now);
        assert_eq!(upkeep.due, now + YOUNG);
        upkeep.begin(now + YOUNG);
        assert_eq!(upkeep.due, now + YOUNG + LEVEL);
        assert!(upkeep.young.is_empty());
    }
}
