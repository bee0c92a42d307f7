//! The reference network: the plugin `ptp`.
use anyhow::Result;
use serde_json::json;

use super::{address::Families, node::Node};

/// Writes the network's configuration of a node.
pub(super) fn install(node: &Node, families: Families) -> Result<()> {
    let ranges: Vec<_> =
        families.each().iter().map(|family| json!([{ "subnet": node.pod_cidr(*family) }])).collect();
    let routes: Vec<_> = families
        .each()
        .iter()
        .map(|family| json!({ "dst": if node.address(*family).is_ipv4() { "0.0.0.0/0" } else { "::/0" } }))
        .collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "ptp",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/var/lib/cni/networks",
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    node.write_before_start("/etc/cni/net.d/10-ptp.conflist", &list.to_string())
}
