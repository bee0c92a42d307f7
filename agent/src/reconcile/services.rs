//! Who translates services on this node: the option, unless the Node's label says otherwise. Remembered on disk, because
//! a restarted agent loads its programs before it can read the label.
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use agent_api::disk;
use agent_core::model::node::Services;
use agent_sources::source::Subject;

use super::Reconciler;
use crate::{config::Config, telemetry::chain};

/// In the state directory.
const FILE_NAME: &str = "services";

/// What problems with the switch are filed under.
const SUBJECT: &str = "services";

/// What to begin with.
pub(crate) fn remembered(config: &Config) -> Services {
    let text = fs::read_to_string(path(&config.state_dir)).unwrap_or_default();
    text.trim().parse().unwrap_or(config.services)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

impl Reconciler {
    /// Switches when the label or the option asks for it. Comes after the first programming, so that whoever gets the
    /// services finds them in the maps.
    pub(super) fn follow_services(&mut self) {
        let wanted = self.own.as_ref().and_then(|node| node.services).unwrap_or(self.services);
        let is_due = self.services_retry.due().is_none_or(|due| due <= Instant::now());
        if !self.was_synced
            || self.dataplane.is_taking_over()
            || wanted == self.dataplane.services()
            || !is_due
        {
            return;
        }
        let switched = self.dataplane.leave_services_to(wanted);
        match switched.map_err(|error| chain(&error)).and_then(|()| {
            remember(&self.state_dir, wanted)
                .map_err(|error| format!("cannot write {}: {error}", path(&self.state_dir).display()))
        }) {
            Ok(()) => {
                tracing::info!("services are translated by {wanted} from now on");
                if wanted == Services::Millrace {
                    for sentence in self.objects.sentences(|subject| matches!(subject, Subject::Outside(_))) {
                        tracing::warn!("{sentence}");
                    }
                }
                self.services_retry.succeeded();
                self.problems.resolve(SUBJECT);
            }
            Err(error) => {
                self.services_retry.failed(Instant::now());
                self.problems
                    .report(SUBJECT, &format!("cannot leave services to {wanted}: {error}; trying again"));
            }
        }
    }
}

fn remember(state_dir: &Path, services: Services) -> io::Result<()> {
    disk::replace(&path(state_dir), format!("{services}\n").as_bytes(), 0o644)
}
