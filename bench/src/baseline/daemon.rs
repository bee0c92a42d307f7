//! The real kube-proxy as a process in a node's namespace.
use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use harness::machine::process::{Place, Process};

use super::tools;
use crate::system::{Backend, routed::POD_CIDR};

/// Name of the node in its Node object.
pub(crate) const NODE: &str = "node";

/// A running kube-proxy. It ends when it is dropped; its rules stay.
#[derive(Debug)]
pub(crate) struct KubeProxy {
    process: Process,
    log: PathBuf,
}

impl KubeProxy {
    /// Starts it in a place, with files in `folder`.
    pub(crate) fn start(
        binary: &Path,
        backend: Backend,
        kubeconfig: &Path,
        place: Place<'_>,
        folder: &Path,
    ) -> Result<Self> {
        let programs = folder.join("programs");
        // Left by an earlier start on the same node.
        if programs.exists() {
            fs::remove_dir_all(&programs).with_context(|| format!("empty {}", programs.display()))?;
        }
        let path = tools::search_path(backend, &programs)?;
        let config = folder.join("kube-proxy.yaml");
        fs::write(&config, configuration(backend, kubeconfig))
            .with_context(|| format!("write {}", config.display()))?;
        let log = folder.join("kube-proxy.log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(binary);
        command
            .arg("kube-proxy")
            .arg(format!("--config={}", config.display()))
            .arg("--v=2")
            .env("PATH", path)
            .env("XTABLES_LOCKFILE", folder.join("xtables.lock"))
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("duplicate the log")?)
            .stderr(file)
            // Ctrl-C is for the benchmark, which ends this when it is done with it.
            .process_group(0);
        Ok(Self { process: Process::spawn(command, place)?, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// An error with the end of its log when it ended.
    pub(crate) fn require_running(&mut self) -> Result<()> {
        match self.process.ended()? {
            Some(status) => bail!("kube-proxy ended with {status}:\n{}", self.log_tail()),
            None => Ok(()),
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Nothing but what a namespace of its own and the comparison need: the limits of conntrack belong to the machine.
fn configuration(backend: Backend, kubeconfig: &Path) -> String {
    let mode = match backend {
        Backend::IptablesLegacy | Backend::IptablesNft => "iptables",
        Backend::Nftables => "nftables",
    };
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         mode: {mode}\n\
         hostnameOverride: {NODE}\n\
         clusterCIDR: {POD_CIDR}\n\
         clientConnection:\n  kubeconfig: {}\n\
         conntrack:\n  maxPerCore: 0\n  min: 0\n",
        kubeconfig.display()
    )
}
