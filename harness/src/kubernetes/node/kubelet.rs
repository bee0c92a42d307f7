//! The kubelet of a node.
use std::{net::IpAddr, path::Path, process::Command};

use serde_json::{Value, json};

use super::containerd;
use crate::kubernetes::address::Families;

/// The files that it reads, inside the node.
pub(super) const CONFIG: &str = "/var/lib/kubelet/config.yaml";
pub(super) const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
pub(super) const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
pub(super) const CERTIFICATE: &str = "/etc/kubernetes/pki/kubelet.crt";
pub(super) const KEY: &str = "/etc/kubernetes/pki/kubelet.key";

/// The configuration: defaults, apart from what a node that shares its kernel's cgroups and disk with others must not do,
/// and short intervals, because tests wait for them.
pub(super) fn config(families: Families) -> Value {
    let dns: Vec<IpAddr> = families.each().iter().map(|family| family.dns_service()).collect();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": AUTHORITY },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": CERTIFICATE,
        "tlsPrivateKeyFile": KEY,
        "clusterDNS": dns,
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        "maxPods": 250,
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
    })
}

/// The kubelet's command.
pub(super) fn command(programs: &Path, name: &str, addresses: &str) -> Command {
    let mut command = Command::new(programs.join("kubelet"));
    command.args([
        format!("--config={CONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--hostname-override={name}"),
        format!("--node-ip={addresses}"),
        "--root-dir=/var/lib/kubelet".to_owned(),
    ]);
    command
}
