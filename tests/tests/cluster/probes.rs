//! The kubelet's probes reach pods that no policy opens to anybody.
use anyhow::{Context as _, Result, ensure};
use harness::probe::wire::Outcome;
use k8s_openapi::api::core::v1 as core;

use crate::{
    ground::{Ground, SILENCE, becomes, gives, pod, pod_with, tcp},
    shared::{PATIENCE, in_pod_of, millrace},
};

const DENY_INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-ingress}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
";

/// Pods with each kind of probe on each node, by name. One failure of a probe shows.
fn probed_pods() -> Vec<(String, String)> {
    const HTTP: &str = "httpGet: {path: /, port: 8080}";
    const TCP: &str = "tcpSocket: {port: 80}";
    const EXEC: &str = "exec: {command: [/workload, ask, tcp, 'localhost:80']}";
    const TIMES: &str = "periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1";
    let mut pods = Vec::new();
    for node in ["node-1", "node-2"] {
        // A pod that is unready over HTTP lives on.
        for (kind, ready, live) in [("http", HTTP, TCP), ("tcp", TCP, HTTP), ("exec", EXEC, EXEC)] {
            let name = format!("{kind}-{node}");
            let container = format!(
                "readinessProbe: {{{ready}, {TIMES}}}, livenessProbe: {{{live}, {TIMES}, initialDelaySeconds: 1}}"
            );
            let yaml = pod_with(&name, node, "app: probed", "serve, --tcp=80, --http=8080", "", &container);
            pods.push((name, yaml));
        }
    }
    pods
}

fn is_ready(pod: &core::Pod, wanted: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == wanted))
}

fn restarts(pod: &core::Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

#[test]
fn probes_of_every_kind_pass_under_default_deny_ingress() -> Result<()> {
    let ground = Ground::new(millrace(), "probed")?;
    ground.apply(DENY_INGRESS)?;
    let pods = probed_pods();
    let yaml: Vec<&str> = pods.iter().map(|(_, yaml)| yaml.as_str()).collect();
    ground.apply(&[&yaml.concat()[..], &pod("client", "node-1", "app: client", "serve")].concat())?;
    let client = ground.probe("client")?;
    let objects = ground.objects::<core::Pod>();
    let silent = |outcome: &Outcome| *outcome == Outcome::TimedOut;
    for (name, _) in &pods {
        ground.wait_for_pod(name).with_context(|| format!("{name} never passed its probe"))?;
        // The policy is in force: nobody else gets in.
        let addresses = ground.pod_addresses(name)?;
        becomes(&client, &[tcp(&addresses, 80), tcp(&addresses, 8080)].concat(), SILENCE, silent)?;
    }
    // Probes go on: what they find changes the pods, and comes back.
    let http: Vec<&String> =
        pods.iter().map(|(name, _)| name).filter(|name| name.starts_with("http")).collect();
    ensure!(http.len() == 2, "a pod of each node is probed over HTTP");
    for (answer, wanted) in [("no", "False"), ("yes", "True")] {
        for name in &http {
            in_pod_of(ground.cluster(), ground.name(), name, &["ready", answer])?;
        }
        for name in &http {
            objects.wait(name, "changes its readiness", PATIENCE, |pod| is_ready(pod, wanted))?;
        }
    }
    for (name, _) in &pods {
        let pod = objects.get(name)?;
        ensure!(is_ready(&pod, "True"), "{name} became unready: {:?}", pod.status);
        ensure!(restarts(&pod) == 0, "{name} was restarted: {:?}", pod.status);
        gives(&client, &tcp(&ground.pod_addresses(name)?, 80), SILENCE, silent)?;
    }
    Ok(())
}
