//! What a pass of the loop came to: reported, told to the CNI server, and published for whoever looks from outside.
use agent_core::{table::Table, update::Kind};

use super::{Inbox, Reconciler};
use crate::{
    cni_server::NodeNetwork,
    dataplane::ApplyReport,
    telemetry::chain,
    vitals::{Phase, Snapshot},
};

/// What pods get without an uplink that says otherwise.
const ETHERNET_MTU: u32 = 1500;

impl Reconciler {
    /// Takes in what became of a plan.
    pub(super) fn note(&mut self, report: &ApplyReport) {
        self.report.written += report.written;
        self.report.deleted += report.deleted;
        if report.is_complete() {
            self.problems.resolve("maps");
            return;
        }
        let failures: Vec<String> = report.failures.iter().map(|error| chain(error)).collect();
        let isolated = match report.isolated {
            0 => String::new(),
            pods => format!("; {pods} pods are cut off until their policy can be written"),
        };
        self.problems.report("maps", &format!("{}{isolated}; trying again", failures.join("; ")));
    }

    /// The maps hold what was seen.
    pub(super) fn note_latencies(&mut self) {
        let was_synced = std::mem::replace(&mut self.was_synced, true);
        self.report.revision = self.state.revision();
        self.noted.programmed(was_synced);
        // The first lists tell how long the start took, not how long a change takes.
        for seen in self.unprogrammed.drain(..).filter(|_| was_synced) {
            self.report.programmed(seen.elapsed());
        }
    }

    /// Publishes what this pass came to. Comes last.
    pub(super) fn publish(&mut self) {
        if self.noted.are_maps_changed {
            let observed = self.dataplane.observed();
            self.noted.entries = Table::every_map().map(|map| (map, observed.len(map))).collect();
            self.noted.are_maps_changed = false;
        }
        if self.noted.are_problems_changed {
            self.noted.problems = self.objects.counts(|subject| self.is_shown(subject));
            self.noted.are_problems_changed = false;
        }
        let mut problems = self.noted.problems.clone();
        match self.conflicts.iter().count() {
            0 => {}
            conflicts => _ = problems.insert("conflict", conflicts),
        }
        let mut is_waiting = [false; Kind::ALL.len()];
        self.state.waiting_for().for_each(|kind| is_waiting[kind as usize] = true);
        let state = &self.state;
        let endpoints = state.endpoints().len();
        let hooks = self.dataplane.hook_count(endpoints);
        let missing = self.guard.unmet().count();
        let own = state.node(&self.node.node_name);
        let snapshot = Snapshot {
            synced: is_waiting.map(|is_waiting| !is_waiting),
            objects: [
                state.services().len(),
                state.slices().len(),
                state.pods().len(),
                state.namespaces().len(),
                state.nodes().len(),
                state.policies().len(),
            ],
            entries: self.noted.entries.clone(),
            hooks_in_place: hooks.saturating_sub(missing),
            hooks_missing: missing,
            hook_repairs: self.guard.repairs(),
            endpoints,
            endpoints_waiting: self.attachments.waiting(),
            endpoints_without_object: state.departed().len(),
            endpoints_isolated: self.noted.isolated,
            frontends_without_backends: self.noted.empty.len(),
            frontends_without_local: self.noted.frontends_without_local(),
            problems,
            unmet: self.unmet_at_last_look(self.noted.unattached.as_ref()),
            is_eligible: own.is_some_and(|node| !node.is_leaving),
        };
        let services = Some(self.dataplane.services());
        self.noted.vitals.services.send_if_modified(|known| std::mem::replace(known, services) != services);
        self.noted.vitals.pulse.publish(snapshot);
        let rest = self.noted.pass.elapsed().saturating_sub(self.noted.accounted);
        self.noted.vitals.pulse.took(Phase::Rest, rest);
    }

    /// Tells the CNI server what the cluster says of this node.
    pub(super) fn tell_node(&self, inbox: &Inbox) {
        let node = self.state.node(&self.node.node_name);
        let pod_cidrs = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        let pods = pod_cidrs.iter().flat_map(|cidr| self.state.pods_in_range(*cidr)).collect();
        let network = NodeNetwork { pod_cidrs, mtu: self.mtu.unwrap_or(ETHERNET_MTU), pods };
        inbox.node.send_if_modified(|known| std::mem::replace(known, network.clone()) != network);
    }
}
