//! Whether the node can be used: every list has come, the maps hold the cluster, the programs are attached, and the
//! runtime calls the CNI plugin. An API server that goes away later changes none of it.
use std::time::Instant;

use agent_api::Health;
use agent_core::model::node::Node;

use super::Reconciler;

impl Reconciler {
    pub(super) fn health(&self) -> Health {
        let unmet = self.with_cni_conf(self.unmet());
        Health { unmet, refusing: self.refusing() }
    }

    /// The same, with what was not attached when the hooks were last looked at: the loop asks after each pass.
    pub(super) fn unmet_at_last_look(&self, unattached: Option<&Vec<String>>) -> Vec<String> {
        let look = || self.dataplane.unattached(self.state.endpoints());
        self.with_cni_conf(self.unmet_with(|| unattached.cloned().unwrap_or_else(look)))
    }

    fn with_cni_conf(&self, mut unmet: Vec<String>) -> Vec<String> {
        unmet.extend(self.cni_conf.unmet().map(str::to_owned));
        if unmet.is_empty() && self.cni_conf.is_awaited() {
            unmet.push("the CNI configuration is not written yet".to_owned());
        }
        // Pods are served nonetheless: they reach each other, and what is wrong may need one of them to be put right.
        if self.state.is_synced() {
            unmet.extend(self.network.unmet().chain(self.upkeep.unmet()));
        }
        unmet
    }

    /// Tells the container runtime that this node serves pods, once it does.
    pub(super) fn keep_cni_conf(&mut self, now: Instant) {
        let is_due = self.cni_conf.due().is_some_and(|due| due <= now);
        if is_due || (self.cni_conf.is_awaited() && self.unmet().is_empty()) {
            self.cni_conf.keep(now, &self.problems);
        }
    }

    /// What hinders this node from serving pods, the CNI configuration apart.
    fn unmet(&self) -> Vec<String> {
        self.unmet_with(|| self.dataplane.unattached(self.state.endpoints()))
    }

    fn unmet_with(&self, unattached: impl FnOnce() -> Vec<String>) -> Vec<String> {
        let mut unmet = self.refusing();
        if !self.state.is_synced() {
            unmet.extend(self.objects.of_watches().map(str::to_owned));
            return unmet;
        }
        if !self.was_synced {
            unmet.push("the maps do not hold the whole cluster yet: see `millrace status`".to_owned());
        }
        unmet.extend(unattached());
        unmet.extend(self.guard.unmet().cloned());
        unmet
    }

    /// Why a pod that comes now would be refused. What hinders one pod or a later one does not belong here: the runtime
    /// asks this, and a node on which it fails loses all of its pods.
    pub(super) fn refusing(&self) -> Vec<String> {
        if !self.state.is_synced() {
            let kinds: Vec<String> = self.state.waiting_for().map(|kind| format!("{kind:?}")).collect();
            return vec![format!("the first list of {} has not come ({})", kinds.join(", "), self.source)];
        }
        self.own_node_problem().into_iter().collect()
    }

    /// Reports what the cluster says too little about this node, or that it says enough.
    pub(super) fn note_own_node(&self) {
        if !self.state.is_synced() {
            return;
        }
        let subject = format!("Node {}", self.node.node_name);
        match own_node_problem(self.state.node(&self.node.node_name)) {
            Some(sentence) => self.problems.report(&subject, sentence),
            None => self.problems.resolve(&subject),
        }
    }

    fn own_node_problem(&self) -> Option<String> {
        let name = &self.node.node_name;
        own_node_problem(self.state.node(name)).map(|sentence| format!("Node {name}: {sentence}"))
    }
}

fn own_node_problem(node: Option<&Node>) -> Option<&'static str> {
    match node {
        None => Some("there is no such object: give the name of this node's object with --node-name"),
        Some(node) if node.pod_cidrs.is_empty() => Some(
            "it has no spec.podCIDRs, so that its pods get no addresses: run kube-controller-manager with \
             --allocate-node-cidrs and --cluster-cidr (kubeadm: networking.podSubnet), or set spec.podCIDR of the object; \
             pods wait until then",
        ),
        Some(_) => None,
    }
}
