//! Processes inside the pods and the nodes of a cluster that serve and ask as they are told.
use std::process::Command;

use anyhow::Result;

use super::{Cluster, Node};
use crate::{machine::binaries::copy_program, probe::client::Probe};

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
        copy_program(&self.programs.workload()?, &node.folder().join(IN_FOLDER))?;
        let mut workload = Command::new(ON_NODE);
        workload.args(["obey", &node.name()]);
        Probe::through(&node.name(), node.inside(workload)?)
    }
}
