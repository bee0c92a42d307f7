//! What the agent tells about itself.
use agent_api::Status;

use super::Reconciler;

impl Reconciler {
    pub(super) fn status(&self) -> Status {
        let objects = self.objects.sentences().map(str::to_owned);
        let conflicts = self.conflicts.iter().map(ToString::to_string);
        Status {
            node_name: self.node.node_name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.report.started.elapsed().as_secs(),
            source: self.source.clone(),
            services_by: self.dataplane.services().to_string(),
            waiting_for: self.state.waiting_for().map(|kind| format!("{kind:?}")).collect(),
            revision: self.report.revision,
            map_writes: self.report.written,
            map_deletes: self.report.deleted,
            pods: self.state.pods().len() as u64,
            services: self.state.services().len() as u64,
            policies: self.state.policies().len() as u64,
            programming_us: self.report.programming_us(),
            problems: self.problems.sentences().into_iter().chain(objects).chain(conflicts).collect(),
            programs: self.dataplane.programs(),
        }
    }
}
