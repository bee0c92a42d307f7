//! Where the components of Kubernetes are that the project builds for its cluster tests.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The programs of a control plane and kube-proxy.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// All components of Kubernetes in one program; the first argument chooses.
    pub(crate) kube: PathBuf,
    pub(crate) etcd: PathBuf,
}

impl Binaries {
    /// Finds them, or says how to get them.
    pub(crate) fn find() -> Result<Self> {
        let running = std::env::current_exe().context("the path of the running program")?;
        // target/PROFILE/bench, or target/PROFILE/deps/bench-… in tests.
        let target = running.ancestors().find(|folder| folder.join("cluster/bin").exists());
        let target = target.unwrap_or_else(|| running.ancestors().nth(2).unwrap_or(&running));
        Self::inside(&target.join("cluster/bin"))
    }

    fn inside(folder: &Path) -> Result<Self> {
        let binaries = Self { kube: folder.join("kube"), etcd: folder.join("etcd") };
        for program in [&binaries.kube, &binaries.etcd] {
            if !program.is_file() {
                bail!(
                    "there is no kube-proxy: {} does not exist; `cargo xtask cluster build` makes it",
                    program.display()
                );
            }
        }
        Ok(binaries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kube_proxy_is_named_with_the_command_that_makes_it() {
        let refused = Binaries::inside(Path::new("/nowhere")).expect_err("nothing is there").to_string();
        assert!(
            refused.contains("/nowhere/kube") && refused.contains("cargo xtask cluster build"),
            "{refused}"
        );
    }
}
