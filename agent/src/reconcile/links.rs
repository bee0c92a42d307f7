//! When new interfaces get their links: `dataplane::filter` says why not at once.
use std::time::{Duration, Instant};

use super::Reconciler;
use crate::telemetry::chain;

/// No pod was added for so long: whoever starts many is done.
const QUIET: Duration = Duration::from_secs(2);
/// Between two interfaces: each keeps the loop, and all that concerns interfaces, for some 30 ms.
const PAUSE: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

impl Reconciler {
    /// A pod was added: the links wait.
    pub(super) fn postpone_links(&mut self) {
        self.links_due = Some(Instant::now() + QUIET);
    }

    /// Attaches the links of one interface, if it is time.
    pub(super) fn link_when_quiet(&mut self) {
        if self.links_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let mut pause = PAUSE;
        if let Some((ifname, linked)) = self.dataplane.link_one() {
            let subject = subject(&ifname);
            match linked {
                Ok(()) => self.problems.resolve(&subject),
                Err(error) => {
                    pause = RETRY;
                    let sentence = format!("{}; its filters guard it meanwhile; trying again", chain(&error));
                    self.problems.report(&subject, &sentence);
                }
            }
        }
        self.links_due = self.dataplane.has_unlinked().then(|| Instant::now() + pause);
    }
}

/// What a problem with the links of an interface is filed under.
pub(super) fn subject(ifname: &str) -> String {
    format!("interface {ifname}")
}
