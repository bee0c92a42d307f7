//! Millrace in a cluster, installed with the manifests and the image that users get.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::json;

use super::{Cluster, manifest, ready::PATIENCE};

/// What `deploy/` installs.
const MANIFEST: &str = include_str!("../../../deploy/manifests/millrace.yaml");

/// Where the manifest puts everything, and the name of each object.
pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "millrace";

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
