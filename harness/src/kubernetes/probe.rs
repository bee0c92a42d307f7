//! Processes inside the pods and the nodes of a cluster that serve and ask as they are told.
use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use super::{Cluster, Node};
use crate::probe::client::Probe;

/// Where a node has the program of test pods, and where that is in the node's folder.
const ON_NODE: &str = "/tmp/workload";
const IN_FOLDER: &str = "tmp/workload";

impl Cluster {
    /// A process in a pod, whose image is the one of test pods.
    pub fn probe_in_pod(&self, namespace: &str, pod: &str) -> Result<Probe> {
        let mut kubectl = self.kubectl()?;
        kubectl.args(["exec", "--stdin", "--namespace", namespace, pod, "--", "/workload", "obey", pod]);
        Probe::through(pod, kubectl)
    }

    /// A process of a node, as its system's own are.
    pub fn probe_on_node(&self, node: &Node) -> Result<Probe> {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let folder = node.folder();
        let copy = folder.join(format!("{IN_FOLDER}.{}", COPIES.fetch_add(1, Ordering::Relaxed)));
        // Not over the program of another process: that one may run.
        fs::copy(self.programs.workload()?, &copy).with_context(|| format!("write {}", copy.display()))?;
        fs::rename(&copy, folder.join(IN_FOLDER)).with_context(|| format!("rename {}", copy.display()))?;
        let mut workload = Command::new(ON_NODE);
        workload.args(["obey", &node.name()]);
        Probe::through(&node.name(), node.inside(workload)?)
    }
}
