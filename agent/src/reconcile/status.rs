//! What the agent tells about itself.
use agent_api::Status;
use agent_core::{model::node::Services, problem::told_together, state::ClusterState, update::Kind};
use agent_sources::{convert::ObjectKey, open_problems::Attention, source::Subject};

use super::Reconciler;

impl Reconciler {
    pub(super) fn status(&self) -> Status {
        let objects = self.objects.sentences(|subject| self.is_shown(subject));
        let conflicts = self.conflicts.iter().map(|problem| (problem.object.clone(), problem.text.clone()));
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
            problems: self
                .problems
                .sentences()
                .into_iter()
                .chain(objects)
                .chain(told_together(conflicts))
                .collect(),
            programs: self.dataplane.programs(),
        }
    }

    /// Tells those who asked what of the cluster is not in force. Comes after the maps were written.
    pub(super) fn answer_askers(&mut self) {
        if self.askers.is_empty() {
            return;
        }
        let missing = self.unapplied();
        for asker in self.askers.drain(..) {
            // Who asked may be gone.
            let _unheard = asker.send(missing.clone());
        }
    }

    /// What was seen of the cluster and is not in the maps, a sentence each.
    fn unapplied(&self) -> Vec<String> {
        if !self.state.is_synced() {
            return self.refusing();
        }
        let mut missing = Vec::new();
        if !self.uplinks_chosen {
            missing.push(
                "the interfaces towards the other nodes are not known yet: see `millrace status`".to_owned(),
            );
        }
        if !self.pending.is_empty() || !self.failed.is_empty() {
            missing.push(
                "not everything could be written to the maps, which is tried again: see `millrace status`"
                    .to_owned(),
            );
        }
        missing
    }

    /// Whether a problem is one at this moment: beside a kube-proxy, who comes from outside is its business.
    pub(super) fn is_shown(&self, subject: &Subject) -> bool {
        !matches!(subject, Subject::Outside(_)) || self.dataplane.services() == Services::Millrace
    }
}

/// Whom a problem concerns. What of a pod is not carried out is so on the pod's own node; beside a kube-proxy, who comes
/// from outside is its business.
pub(super) fn attention(
    subject: &Subject,
    state: &ClusterState,
    node_name: &str,
    services: Services,
) -> Attention {
    if let Subject::Unsupported(ObjectKey { kind: Kind::Pod, name }) = subject
        && state.pod(name).is_none_or(|pod| pod.node_name.as_deref() != Some(node_name))
    {
        Attention::None
    } else if matches!(subject, Subject::Outside(_)) && services != Services::Millrace {
        Attention::Keep
    } else {
        Attention::Log
    }
}
