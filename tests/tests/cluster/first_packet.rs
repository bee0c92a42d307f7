//! A policy is in force before a new pod sends its first packet.
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use harness::probe::wire::{Outcome, Transport};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    ground::{ANSWER, Ground, becomes, pod, pod_with, tcp, udp},
    shared::{PATIENCE, millrace},
};

const DENY_EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Egress]}
---
";

/// A pod that asks once, as the first thing that it does, and ends: well only if it was answered.
fn hasty(name: &str, node: &str, app: &str, transport: &str, server: &str) -> String {
    let arguments = format!("ask, {transport}, '{server}', --timeout=3000");
    pod_with(name, node, &format!("app: {app}"), &arguments, "restartPolicy: Never,", "")
}

#[test]
fn a_pod_that_asks_as_it_starts_never_gets_out_under_default_deny_egress() -> Result<()> {
    const EACH: usize = 2;
    let ground = Ground::new(millrace(), "first-packet")?;
    ground.apply(&[pod("server", "node-1", "app: server", "serve"), DENY_EGRESS.to_owned()].concat())?;
    let server = ground.probe("server")?;
    for transport in [Transport::Tcp, Transport::Udp] {
        server.listen(transport, 80)?;
    }
    let arrived =
        || -> Result<u64> { Ok(server.served(Transport::Tcp, 80)? + server.served(Transport::Udp, 80)?) };
    let addresses = ground.pod_addresses("server")?;
    // Everybody else gets there, so silence means the policy.
    ground.apply(&pod("open", "node-2", "app: open", "serve"))?;
    becomes(
        &ground.probe("open")?,
        &[tcp(&addresses, 80), udp(&addresses, 80)].concat(),
        ANSWER,
        Outcome::is_answered,
    )?;
    let before = arrived()?;

    let mut closed = Vec::new();
    let mut open = Vec::new();
    for node in ["node-1", "node-2"] {
        for address in &addresses {
            let server = SocketAddr::new(*address, 80).to_string();
            let family = if address.is_ipv4() { "v4" } else { "v6" };
            for transport in ["tcp", "udp"] {
                let name = |app: &str, number: usize| format!("{app}-{node}-{transport}-{family}-{number}");
                let of = |name: &str, app: &str| hasty(name, node, app, transport, &server);
                for number in 0..EACH {
                    let name = name("closed", number);
                    closed.push((of(&name, "closed"), name));
                }
                let name = name("open", 0);
                open.push((of(&name, "open"), name));
            }
        }
    }
    ensure!(open.len() == 8, "not of both families: {addresses:?}");
    for (yaml, _) in closed.iter().chain(&open) {
        ground.apply(yaml)?;
    }
    let phase = |name: &str, wanted: &str| {
        let ended = |pod: &Pod| phase_of(pod).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        let pod = ground.objects::<Pod>().wait(name, "ends", PATIENCE, ended)?;
        ensure!(phase_of(&pod) == Some(wanted), "{name}: {:?}", pod.status);
        Ok(())
    };
    for (_, name) in &closed {
        phase(name, "Failed")?;
    }
    for (_, name) in &open {
        phase(name, "Succeeded")?;
    }
    // Not one packet of the closed ones came through: the server saw the open ones only.
    let seen = arrived()? - before;
    ensure!(seen == u64::try_from(open.len())?, "the server was asked {seen} times");
    Ok(())
}

fn phase_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}
