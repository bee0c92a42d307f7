//! Services as applications use them: from pods, pods in the host's network and the nodes themselves, over both
//! transports and both families.
use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    eventually::eventually,
    probe::{
        client::Probe,
        wire::{Outcome, Target, Transport},
    },
};

use crate::{
    ground::{ANSWER, Ground, SILENCE, becomes, gives, pod, pod_with, tcp, udp},
    shared::{PATIENCE, millrace},
};

/// A Service of both families; the selector and the ports are as YAML has them.
fn service(name: &str, selector: &str, target_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ipFamilyPolicy: RequireDualStack, \
         selector: {{{selector}}}, ports: [{{name: tcp, port: 80, targetPort: {target_port}}}, \
         {{name: udp, port: 80, targetPort: {target_port}, protocol: UDP}}]}}\n---\n"
    )
}

/// Two servers on a node.
fn servers(node: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: server-{node}}}\nspec:\n  replicas: 2\n  \
         selector: {{matchLabels: {{app: server, on: {node}}}}}\n  template:\n    \
         metadata: {{labels: {{app: server, on: {node}}}}}\n    spec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'localhost/millrace/workload:test', \
         imagePullPolicy: Never, args: [serve, --tcp=8000, --udp=8000]}}]}}\n---\n"
    )
}

/// A client on each node, and one in the network of a node.
fn clients() -> String {
    let in_host = "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,";
    [
        pod("client-1", "node-1", "app: client", "serve"),
        pod("client-2", "node-2", "app: client", "serve"),
        pod_with("host", "node-1", "app: client", "serve", in_host, ""),
    ]
    .concat()
}

/// Processes in the pods of [`clients`], and one of each node.
fn probes(ground: &Ground) -> Result<(Vec<Probe>, Vec<Probe>)> {
    let pods = ["client-1", "client-2", "host"].iter().map(|pod| ground.probe(pod)).collect::<Result<_>>()?;
    let cluster = ground.cluster();
    let nodes = cluster.nodes().iter().map(|node| cluster.probe_on_node(node)).collect::<Result<_>>()?;
    Ok((pods, nodes))
}

/// Both transports, to port 80 of a Service's addresses, of which there is one of each family.
fn ways(ground: &Ground, service: &str) -> Result<Vec<Target>> {
    let addresses = ground.service_addresses(service)?;
    ensure!(addresses.len() == 2, "{service} has not both families: {addresses:?}");
    Ok([tcp(&addresses, 80), udp(&addresses, 80)].concat())
}

/// How often each server answered so many requests at once.
fn share(probe: &Probe, target: Target, requests: usize) -> Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for outcome in probe.probe(&vec![target; requests], ANSWER)? {
        let Some(server) = outcome.by() else {
            bail!("{} asks {:?} {}: {outcome}", probe.name(), target.transport, target.to)
        };
        *shares.entry(server.to_owned()).or_default() += 1;
    }
    Ok(shares)
}

#[test]
fn a_deployment_is_reached_by_address_and_name_from_everywhere_and_shares_its_load() -> Result<()> {
    /// Four servers get 50 of these each; less than 20 happens once in a million.
    const REQUESTS: usize = 200;
    const BATCH: usize = 50;
    const LEAST: usize = 20;
    let ground = Ground::new(millrace(), "services")?;
    ground.apply(
        &[servers("node-1"), servers("node-2"), service("server", "app: server", 8000), clients()].concat(),
    )?;
    for node in ["node-1", "node-2"] {
        ground.cluster().wait_for_deployment(ground.name(), &format!("server-{node}"))?;
    }
    let addresses = ground.service_addresses("server")?;
    let (pods, nodes) = probes(&ground)?;
    for pod in &pods {
        for name in ["server", "server.services", "server.services.svc.cluster.local"] {
            let found =
                eventually(format!("{} looks up {name}", pod.name()), PATIENCE, || pod.resolve(name))?;
            let found: std::collections::BTreeSet<_> = found.into_iter().collect();
            assert_eq!(found, addresses.iter().copied().collect(), "{} looks up {name}", pod.name());
        }
    }
    for probe in pods.iter().chain(&nodes) {
        for target in ways(&ground, "server")? {
            let what = format!("{} reaches all over {:?} {}", probe.name(), target.transport, target.to);
            eventually(&what, PATIENCE, || {
                let shares = share(probe, target, BATCH)?;
                ensure!(shares.len() == 4, "so far: {shares:?}");
                Ok(())
            })?;
            // From here on there is no excuse.
            let mut shares = BTreeMap::new();
            for _ in 0..REQUESTS / BATCH {
                for (server, answers) in share(probe, target, BATCH)? {
                    *shares.entry(server).or_insert(0) += answers;
                }
            }
            ensure!(
                shares.len() == 4 && shares.values().all(|answers| *answers >= LEAST),
                "{what}: {shares:?}"
            );
        }
        let unconnected = addresses.iter().map(|address| Target {
            transport: Transport::UnconnectedUdp,
            to: (*address, 80).into(),
            from: None,
        });
        // An answer comes from the address that was asked.
        for (target, outcome) in
            unconnected.clone().zip(probe.probe(&unconnected.collect::<Vec<_>>(), ANSWER)?)
        {
            let Outcome::Answered(answer) = outcome else {
                bail!("{} asks {}: {outcome}", probe.name(), target.to)
            };
            assert_eq!(answer.from, target.to, "{}", probe.name());
        }
    }
    Ok(())
}

#[test]
fn a_wrong_target_port_and_a_service_without_servers_refuse() -> Result<()> {
    let ground = Ground::new(millrace(), "refused")?;
    let objects = [
        servers("node-1"),
        service("wrong", "app: server", 8001),
        service("nobody", "app: nobody", 8000),
        clients(),
    ];
    ground.apply(&objects.concat())?;
    ground.cluster().wait_for_deployment(ground.name(), "server-node-1")?;
    let (pods, nodes) = probes(&ground)?;
    for service in ["wrong", "nobody"] {
        let targets = ways(&ground, service)?;
        // The kernel of a pod refuses each client about one datagram a second; connections have no such limit.
        let strict: Vec<Target> =
            targets.iter().copied().filter(|target| target.transport == Transport::Tcp).collect();
        for probe in pods.iter().chain(&nodes) {
            let refused = |outcome: &Outcome| *outcome == Outcome::Refused;
            becomes(probe, &targets, SILENCE, refused).with_context(|| service.to_owned())?;
            for _ in 0..10 {
                gives(probe, &strict, ANSWER, refused).with_context(|| service.to_owned())?;
            }
        }
    }
    // The same Service works as soon as the mistake is mended, and the empty one as soon as there is a server.
    ground
        .apply(&[service("wrong", "app: server", 8000), service("nobody", "app: server", 8000)].concat())?;
    for service in ["wrong", "nobody"] {
        let targets = ways(&ground, service)?;
        for probe in pods.iter().chain(&nodes) {
            becomes(probe, &targets, ANSWER, Outcome::is_answered).with_context(|| service.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let ground = Ground::new(millrace(), "hairpin")?;
    let alone = pod("alone", "node-2", "app: alone", "serve, --tcp=8000, --udp=8000");
    ground.apply(&[alone, service("alone", "app: alone", 8000)].concat())?;
    let probe = ground.probe("alone")?;
    let targets = ways(&ground, "alone")?;
    let by_itself = |outcome: &Outcome| outcome.by() == Some("alone");
    becomes(&probe, &targets, ANSWER, by_itself)?;
    for _ in 0..20 {
        gives(&probe, &targets, ANSWER, by_itself)?;
    }
    Ok(())
}

#[test]
fn pods_reach_the_api_server_through_its_service() -> Result<()> {
    let ground = Ground::new(millrace(), "api-client")?;
    let volume = "volumes: [{name: kube, hostPath: {path: /opt/cluster/bin, type: Directory}}],";
    let mount = "volumeMounts: [{name: kube, mountPath: /kube, readOnly: true}]";
    // Both take everything from their surroundings, as programs in pods do; the second is given a name for the address.
    let named = format!("env: [{{name: KUBERNETES_SERVICE_HOST, value: kubernetes.default.svc}}], {mount}");
    let client = |name, node, extra| pod_with(name, node, "app: client", "serve", volume, extra);
    ground.apply(&[client("by-address", "node-1", mount), client("by-name", "node-2", &named)].concat())?;
    for client in ["by-address", "by-name"] {
        ground.wait_for_pod(client)?;
        let version = eventually(format!("{client} asks the API server"), PATIENCE, || {
            let mut kubectl = ground.cluster().kubectl()?;
            kubectl.args(["exec", "--namespace", ground.name(), client, "--", "/kube/kubectl"]);
            kubectl.args(["get", "--raw=/version"]).stdin(Stdio::null());
            let output = kubectl.output().context("run kubectl")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })?;
        ensure!(version.contains("gitVersion"), "{client}: {version}");
    }
    Ok(())
}
