//! Pods that a kubelet runs from files: what it calls their UID is not the UID of the object that mirrors them.
use anyhow::Result;
use harness::{
    cluster::PodSpec,
    kernel,
    probe::wire::{Target, Transport},
    topology::Topology,
};
use serde_json::json;

use crate::{
    expect::{TRANSPORTS, is_answered_by, is_silent, target},
    objects::policy,
};

const HASH: &str = "5f2a63a0c1e94a3f8d1c0b7e6a5d4c3b";

#[test]
fn a_static_pod_starts_and_has_the_policies_of_its_mirror() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    topology.control_plane.apply(&policy(
        "only-udp",
        &json!({
            "podSelector": { "matchLabels": { "app": "static" } },
            "ingress": [{ "ports": [{ "protocol": "UDP", "port": 80 }] }],
        }),
    ))?;
    topology.settle()?;
    let pod = topology.add_pod(PodSpec::new("default", "static").label("app", "static").of_file(HASH))?;
    for transport in TRANSPORTS {
        pod.probe().listen(transport, 80)?;
    }
    for to in pod.at(80) {
        is_answered_by("default/static", client.probe(), target(Transport::Udp, to))?;
        is_silent(client.probe(), Target::tcp(to))?;
        // Its own node reaches it whatever policies say.
        is_answered_by("default/static", topology.node(0).host(), Target::tcp(to))?;
    }
    // The agent that starts again knows it from its leases.
    topology.node(0).kill_agent()?;
    topology.node(0).start_agent()?;
    topology.settle()?;
    for to in pod.at(80) {
        is_answered_by("default/static", client.probe(), target(Transport::Udp, to))?;
        is_silent(client.probe(), Target::tcp(to))?;
    }
    topology.close()
}
