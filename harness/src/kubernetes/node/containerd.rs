//! The container runtime of a node.
use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

/// Where it listens, inside the node.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// The file of its configuration, inside the node.
pub(super) const CONFIG: &str = "/etc/containerd/config.toml";

/// The image of the process that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/millrace/pause:test";

/// Where it tells how long things took, inside the node.
pub const METRICS: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, 1338);

/// The configuration: defaults, apart from what this machine's limits forbid.
pub(super) fn config() -> String {
    let (metrics, metrics_port) = METRICS;
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.nri.v1.nri"]

[grpc]
address = "{SOCKET}"

[metrics]
address = "{metrics}:{metrics_port}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
# A process may not lower its own badness without CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// The daemon's command.
pub(super) fn command(programs: &Path) -> Command {
    let mut command = Command::new(programs.join("containerd"));
    command.args(["--config", CONFIG]);
    command
}

/// Brings an image from an archive on standard input into the node.
pub(super) fn import(programs: &Path) -> Command {
    let mut command = Command::new(programs.join("ctr"));
    command.args(["--address", SOCKET, "--namespace", "k8s.io", "images", "import", "-"]);
    command
}

/// Succeeds once the runtime answers.
pub(super) fn probe(programs: &Path) -> Command {
    let mut command = Command::new(programs.join("ctr"));
    command.args(["--address", SOCKET, "--timeout", "2s", "version"]);
    command
}

/// An error with what a finished command printed, unless it succeeded.
pub(super) fn check(output: &std::process::Output, what: &str) -> Result<()> {
    let message = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).with_context(|| format!("{what}: {}", message.trim()))
}
