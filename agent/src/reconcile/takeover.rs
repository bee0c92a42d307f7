//! What the agent before has left: its endpoints, and maps of another layout, which the programs leave as soon as this agent's
//! hold the whole cluster.
use std::{net::IpAddr, time::Instant};

use agent_core::{
    model::endpoint::Endpoint,
    update::{Change, Update},
};

use super::{Reconciler, subject};
use crate::telemetry::chain;

/// What problems with it are filed under.
const SUBJECT: &str = "layout of the maps";

impl Reconciler {
    /// Takes over an endpoint of the run before. Its entries stay as they are until every kind is in sync.
    pub(crate) fn restore(&mut self, endpoint: Endpoint) {
        if let Err(error) = self.dataplane.restore(&endpoint) {
            self.problems.report(&subject(&endpoint), &chain(&error));
        }
        self.update(Update::Endpoint(Change::Apply(endpoint)));
    }

    /// Deletes the flows of endpoints that are in the maps and were not restored. Their entries go with the first
    /// plan.
    pub(crate) fn forget_others(&mut self, in_maps: &[IpAddr]) {
        let lives = |addr: &IpAddr| self.state.endpoints().any(|endpoint| endpoint.ips.contains(addr));
        self.dataplane.forget(in_maps.iter().copied().filter(|addr| !lives(addr)).collect());
    }

    /// Comes after the maps were written, and before anybody is told so: what is attached runs former programs until then.
    pub(super) fn take_over_when_ready(&mut self, now: Instant) {
        let is_due = self.takeover_retry.due().is_none_or(|due| due <= now);
        if !self.was_synced || !self.dataplane.is_taking_over() || !is_due {
            return;
        }
        match self.dataplane.take_over(self.state.endpoints()) {
            Ok(()) => {
                self.takeover_retry.succeeded();
                self.problems.resolve(SUBJECT);
            }
            Err(error) => {
                self.takeover_retry.failed(now);
                let sentence = format!(
                    "cannot take the place of the maps of the agent before: {}; its programs go on; trying again",
                    chain(&error)
                );
                self.problems.report(SUBJECT, &sentence);
            }
        }
    }
}
