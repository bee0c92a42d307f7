//! The built components and images, beside the running program's folder: `cargo xtask cluster` puts them there.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where nodes see the folder of the components.
pub const IN_NODES: &str = "/opt/cluster/bin";

/// The search path of everything that runs on a machine of the cluster.
pub const SEARCH_PATH: &str =
    "/opt/cluster/iptables:/opt/cluster/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where things are that a cluster is made of.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    images: PathBuf,
}

impl Programs {
    /// Finds them, and says which is missing.
    pub fn find() -> Result<Self> {
        let running = std::env::current_exe().context("the path of the running program")?;
        let mut folder = running.parent().context("the running program has no folder")?;
        if folder.ends_with("deps") {
            folder = folder.parent().context("`deps` has no parent")?;
        }
        let target = folder.parent().context("a build folder has a parent")?;
        let linked = target.join("cluster/bin");
        let folder = std::fs::canonicalize(&linked).with_context(|| missing(&linked))?;
        let programs = Self { folder, images: target.join("cluster/images") };
        for name in ["etcd", "kube", "containerd", "containerd-shim-runc-v2", "ctr"] {
            programs.path(name)?;
        }
        Ok(programs)
    }

    /// The folder of the components.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One component.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if !path.exists() {
            bail!(missing(&path));
        }
        Ok(path)
    }

    /// The program of test pods, which runs wherever the kernel does.
    pub fn workload(&self) -> Result<PathBuf> {
        let path = self.images.with_file_name("workload");
        if !path.exists() {
            bail!(missing(&path));
        }
        Ok(path)
    }

    /// The archives of the images that every node gets.
    pub fn images(&self) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(&self.images).with_context(|| missing(&self.images))?;
        let mut archives: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
        archives.sort();
        if archives.is_empty() {
            bail!(missing(&self.images.join("coredns.tar")));
        }
        Ok(archives)
    }
}

fn missing(path: &Path) -> String {
    format!(
        "{} does not exist: `cargo xtask cluster build` makes the components of a cluster",
        path.display()
    )
}
