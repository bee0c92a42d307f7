//! Millrace in a cluster, installed with the manifests and the image that users get.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use serde_json::{Value, json};

use super::{
    Cluster, Node, manifest,
    ready::{PATIENCE, is_ready_pod},
};
use crate::{
    eventually::eventually,
    machine::binaries::{binary, copy_program},
};

/// What `deploy/` installs.
const MANIFEST: &str = include_str!("../../../deploy/manifests/millrace.yaml");

/// Where the manifest puts everything, and the name of each object.
pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "millrace";

/// Chooses the agents' pods.
const LABELS: &str = "app.kubernetes.io/name=millrace";

/// The setting that the manifest leaves to the user, because no cluster's address is another's.
const API_SERVER: &str = "MILLRACE_API_SERVER";

impl Cluster {
    /// Brings the image into every node and applies the manifest, with the address of this cluster's API server.
    pub fn install_millrace(&self) -> Result<()> {
        self.load(&archive()?)?;
        let mut objects = manifest::objects(MANIFEST)?;
        let settings = objects
            .iter_mut()
            .find(|object| object.types.as_ref().is_some_and(|types| types.kind == "ConfigMap"))
            .context("deploy/manifests/millrace.yaml has no ConfigMap")?;
        settings.data["data"][API_SERVER] = json!(self.plane().server());
        self.api().apply_objects(&objects)
    }

    /// Waits until Millrace is ready on every node.
    pub fn wait_for_millrace(&self) -> Result<()> {
        let sets = self.api().namespaced::<DaemonSet>(NAMESPACE);
        let nodes = i32::try_from(self.nodes().len()).context("a number of nodes")?;
        sets.wait(NAME, "is ready on every node", PATIENCE, |set| {
            set.status.as_ref().is_some_and(|status| {
                status.observed_generation >= set.metadata.generation
                    && status.updated_number_scheduled == Some(nodes)
                    && status.number_ready == nodes
            })
        })
        .map(drop)
    }
}

/// The agents' pods, by the name of their node.
pub type Agents = BTreeMap<String, Pod>;

impl Cluster {
    /// The agents' pods that are there, ready or not.
    pub fn agents(&self) -> Result<Agents> {
        let pods = self.api().namespaced::<Pod>(NAMESPACE).list(LABELS)?;
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Ok(pods.into_iter().filter_map(|pod| Some((node(&pod)?, pod))).collect())
    }

    /// Waits until every node has an agent that is ready and none of those in `earlier`.
    pub fn wait_for_other_agents(&self, earlier: &Agents) -> Result<Agents> {
        let old: Vec<_> = earlier.values().map(|pod| &pod.metadata.uid).collect();
        eventually("other agents are ready", PATIENCE, || {
            let agents = self.agents()?;
            ensure!(agents.len() == self.nodes().len(), "agents on {:?}", agents.keys());
            for (node, pod) in &agents {
                ensure!(!old.contains(&&pod.metadata.uid), "{node} has its earlier agent");
                ensure!(is_ready_pod(pod), "the agent of {node} is not ready: {:?}", conditions(pod));
            }
            Ok(agents)
        })
    }
}

/// Which conditions of a pod hold.
fn conditions(pod: &Pod) -> Vec<String> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.map(|condition| format!("{}={}", condition.type_, condition.status)).collect()
}

impl Node {
    /// What the command line tells of this node, as JSON, with or without an agent.
    pub fn millrace(&self, arguments: &[&str]) -> Result<Value> {
        // The node sees its own folder, and not always that of the build.
        let copy = self.folder().join("tmp/millrace");
        if !copy.exists() {
            copy_program(&binary("millrace")?, &copy)?;
        }
        let mut command = Command::new("/tmp/millrace");
        command.args(["--output", "json"]).args(arguments);
        let output = self.run(command)?;
        let message = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("millrace {arguments:?} on {}: {}", self.name(), message.trim()))
    }
}

/// The archive of the image, which `cargo xtask image` makes.
fn archive() -> Result<PathBuf> {
    let running = std::env::current_exe().context("the path of the running program")?;
    let name = Path::new("image").join(concat!("millrace-", env!("CARGO_PKG_VERSION"), ".tar"));
    let found = running.ancestors().map(|folder| folder.join(&name)).find(|path| path.exists());
    let Some(archive) = found else {
        bail!("target/{} does not exist: `cargo xtask image` makes it", name.display());
    };
    Ok(archive)
}
