//! The real kube-proxy, on a node or in any network namespace that reaches the API.
use std::{net::TcpListener, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    address::{Families, Family},
    api::Api,
    certificates::write,
    component::Component,
    control_plane::ControlPlane,
    forward,
    node::{Iptables, Node},
    place::Place,
    programs::{IN_NODES, SEARCH_PATH},
};
use crate::machine::{cgroup, netns::Netns};

/// Who on the API kube-proxy is.
const USER: &str = "system:kube-proxy";

/// What kubeadm gives kube-proxy, too.
const ROLE: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kube-proxy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-proxier'}
subjects: [{kind: User, name: 'system:kube-proxy', apiGroup: rbac.authorization.k8s.io}]
";

/// What kube-proxy writes its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Iptables(Iptables),
    Nftables,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Iptables(_) => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Lets kube-proxy read what it needs.
pub(super) fn allow(api: &Api) -> Result<()> {
    api.apply_yaml(ROLE)
}

/// Starts kube-proxy on a node, with the back end of `iptables` that the node has.
pub fn start_on_node(node: &Node, mode: Mode, plane: &ControlPlane) -> Result<()> {
    let folder = node.root()?.join("etc/kubernetes");
    let kubeconfig = plane.authority().kubeconfig(&plane.server(), USER, None)?;
    write(&folder.join("kube-proxy.conf"), &kubeconfig)?;
    let config = config(&node.name(), mode, plane.families(), Path::new("/etc/kubernetes/kube-proxy.conf"));
    write(&folder.join("kube-proxy.yaml"), &config)?;
    let mut command = Command::new(Path::new(IN_NODES).join("kube-proxy"));
    command.arg("--config=/etc/kubernetes/kube-proxy.yaml");
    command.env_clear().env("PATH", SEARCH_PATH).current_dir("/");
    node.component("kube-proxy").start(&node.place()?, command)
}

/// Starts kube-proxy in a network namespace that need not be on the cluster's network, as the node of this name. The
/// object of that node must exist, with an address in its status: kube-proxy waits half a minute for one. The component
/// is how to end it.
pub fn start_in(netns: &Netns, node: &str, mode: Mode, plane: &ControlPlane) -> Result<Component> {
    let cluster = plane.cluster();
    let listener = netns.run(|| TcpListener::bind("127.0.0.1:0"))?.context("listen in a namespace")?;
    let server = format!("https://{}", listener.local_addr().context("the address of a listener")?);
    forward::start(&Component::new(cluster, node, "forward"), &plane.place()?, listener)?;

    let folder = cluster.folder().join(node);
    let links = folder.join("iptables");
    std::fs::create_dir_all(&links).with_context(|| format!("create {}", links.display()))?;
    if let Mode::Iptables(iptables) = mode {
        iptables.link(&links)?;
    }
    let kubeconfig = folder.join("kube-proxy.conf");
    write(&kubeconfig, &plane.authority().kubeconfig(&server, USER, None)?)?;
    let file = folder.join("kube-proxy.yaml");
    write(&file, &config(node, mode, plane.families(), &kubeconfig))?;

    let mut command = Command::new(plane.programs().path("kube-proxy")?);
    command.arg(format!("--config={}", file.display())).env_clear();
    command.env("PATH", format!("{}:{SEARCH_PATH}", links.display()));
    // The lock of `iptables` is one for the whole machine, unless it is told otherwise.
    command.env("XTABLES_LOCKFILE", folder.join("xtables.lock"));
    let groups = cgroup::hierarchies()?.into_iter().filter(|hierarchy| hierarchy.version_2);
    let groups = groups.map(|hierarchy| hierarchy.group(&cluster.part_group(node))).collect::<Result<_>>()?;
    let proxy = Component::new(cluster, node, "kube-proxy");
    proxy.start(&Place::network(netns, groups), command)?;
    Ok(proxy)
}

/// The configuration. kube-proxy may not set the size of conntrack: it belongs to the machine.
fn config(node: &str, mode: Mode, families: Families, kubeconfig: &Path) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.name(),
        "hostnameOverride": node,
        "clusterCIDR": families.list(Family::pod_cidr),
        "clientConnection": { "kubeconfig": kubeconfig },
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "bindAddress": "0.0.0.0",
    })
    .to_string()
}
