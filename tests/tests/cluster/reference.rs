//! What every cluster can do, with kube-proxy and the reference network: the cluster itself works.
use std::collections::BTreeSet;

use anyhow::Result;
use harness::{
    eventually::eventually,
    machine::netns::Netns,
    probe::{
        connect::probe,
        wire::{Outcome, Target},
    },
};

use crate::shared::{PATIENCE, in_pod, reference, wait_for_pod};

/// Two servers behind a Service with a node port, one on each node, and a client on each node.
const OBJECTS: &str = r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: server
        image: localhost/millrace/workload:test
        imagePullPolicy: Never
        args: [serve, --tcp=80, --udp=80, --http=8080]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: NodePort
  selector: {app: server}
  ports:
  - {name: tcp, port: 80, protocol: TCP, nodePort: 30080}
  - {name: udp, port: 80, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, labels: {app: client}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client-2, labels: {app: client}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: 'localhost/millrace/workload:test', imagePullPolicy: Never, args: [serve]}]
";

#[test]
fn a_service_answers_by_address_by_name_and_from_outside() -> Result<()> {
    let cluster = reference();
    cluster.api().apply_yaml(OBJECTS)?;
    let services = cluster.api().namespaced::<k8s_openapi::api::core::v1::Service>("default");
    let spec = services.get("server")?.spec.unwrap_or_default();
    let address = spec.cluster_ip.unwrap_or_default();
    for client in ["client-1", "client-2"] {
        wait_for_pod(cluster, client)?;
        let by_name = eventually(format!("{client} asks by name"), PATIENCE, || {
            in_pod(cluster, client, &["resolve", "server.default.svc.cluster.local"])
        })?;
        assert_eq!(by_name, address, "{client}");
        for transport in ["tcp", "udp"] {
            for server in [format!("{address}:80"), "server:80".to_owned()] {
                eventually(format!("{client} asks {server} over {transport}"), PATIENCE, || {
                    in_pod(cluster, client, &["ask", transport, &server])
                })?;
            }
        }
        // Both servers get their share.
        let mut servers = BTreeSet::new();
        eventually(format!("{client} reaches both servers"), PATIENCE, || {
            let answer = in_pod(cluster, client, &["ask", "tcp", &format!("{address}:80")])?;
            servers.extend(answer.split(' ').next().map(String::from));
            anyhow::ensure!(servers.len() == 2, "so far: {servers:?}");
            Ok(())
        })?;
    }

    let outside = Netns::open(cluster.fabric().client().name())?;
    for node in cluster.nodes() {
        let to = (node.address(cluster.options().families.first()), 30080).into();
        eventually(format!("the client outside asks {to}"), PATIENCE, || {
            let outcome = outside.run(|| probe(Target::tcp(to), std::time::Duration::from_secs(2)))?;
            anyhow::ensure!(matches!(outcome, Outcome::Answered(_)), "{outcome}");
            Ok(())
        })?;
    }
    Ok(())
}
