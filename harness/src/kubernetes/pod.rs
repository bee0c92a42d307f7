//! Pods from the inside, without the API: what goes on in them while the API server is away can be seen, too.
use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;

use super::{Cluster, Node};
use crate::{machine::process::Process, probe::client::Probe};

impl Cluster {
    /// The node of a pod.
    pub fn node_of(&self, pod: &Pod) -> Result<&Node> {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        self.node(name.with_context(|| format!("pod {} has no node", name_of(pod)))?)
    }

    /// The first process of a pod's first container, as this machine numbers it.
    pub fn process_of(&self, pod: &Pod) -> Result<u32> {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let id = statuses.and_then(|statuses| statuses.first()?.container_id.as_deref());
        let id = id.and_then(|id| id.split_once("://")).map(|(_, id)| id);
        let id = id.with_context(|| format!("pod {} has no container that runs", name_of(pod)))?;
        let processes = fs::read_dir("/proc").context("read /proc")?.flatten();
        let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
        let is_in_container = |process: &u32| {
            let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.rsplit('/').next() == Some(id))
        };
        numbers
            .filter(is_in_container)
            .min()
            .with_context(|| format!("no process runs in pod {}", name_of(pod)))
    }

    /// Starts a process in a pod whose container holds the program of test pods, ready for orders.
    pub fn probe(&self, pod: &Pod) -> Result<Probe> {
        let name = name_of(pod);
        let mut command = Command::new("/workload");
        command.env_clear().args(["obey", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        self.node_of(pod)?.place_beside(self.process_of(pod)?)?.enter(&mut command)?;
        Probe::of(name, Process::start(command)?)
    }
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
