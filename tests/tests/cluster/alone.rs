//! The API without nodes, and kube-proxy beside it in any network namespace.
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{
        Iptables,
        address::Families,
        control_plane::{ControlPlane, Extent},
        down,
        guard::Guard,
        proxy::{self, Mode},
    },
    machine::netns::Netns,
};
use k8s_openapi::api::core::v1 as core;
use serde_json::json;

use crate::shared::{PATIENCE, own_name};

/// A Service, and the address that it leads to.
const OBJECTS: &str = r"
apiVersion: v1
kind: Node
metadata: {name: alone}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec:
  clusterIP: 10.96.7.7
  ports: [{port: 80, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: elsewhere-1, labels: {kubernetes.io/service-name: elsewhere}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP, name: ''}]
endpoints: [{addresses: [10.244.7.7], conditions: {ready: true}}]
";

#[test]
fn kube_proxy_writes_its_rules_in_any_namespace() -> Result<()> {
    let name = own_name("alone");
    let _guard = Guard::set(&name)?;
    let (plane, api) = ControlPlane::alone(&name, Families::V4, Extent::Api)?;
    api.apply_yaml(OBJECTS)?;
    // kube-proxy waits half a minute for an address of its node.
    let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.77.50" }] } });
    api.cluster_wide::<core::Node>().patch_status("alone", &status)?;
    for (mode, list) in [
        (Mode::Iptables(Iptables::Legacy), &["iptables-legacy-save", "-t", "nat"][..]),
        (Mode::Iptables(Iptables::Nft), &["iptables-nft-save", "-t", "nat"]),
        (Mode::Nftables, &["nft", "list", "table", "ip", "kube-proxy"]),
    ] {
        let netns = Netns::create(&name.part("proxied"))?;
        let proxy = proxy::start_in(&netns, "alone", mode, &plane)?;
        eventually(format!("rules of {mode:?}"), PATIENCE, || {
            proxy.check_runs()?;
            let output =
                netns.run(|| Command::new(list[0]).args(&list[1..]).output())?.context("list rules")?;
            let rules = String::from_utf8_lossy(&output.stdout);
            ensure!(rules.contains("10.96.7.7") && rules.contains("10.244.7.7"), "{rules}");
            Ok(())
        })?;
        proxy.stop()?;
    }
    down::remove(&name)?;
    ensure!(down::leftovers(&name)?.is_empty());
    Ok(())
}

#[test]
fn pods_without_nodes_are_made_ready_by_hand_and_become_backends() -> Result<()> {
    let name = own_name("pods");
    let _guard = Guard::set(&name)?;
    let (_plane, api) = ControlPlane::alone(&name, Families::Dual, Extent::Controllers)?;
    let accounts = api.namespaced::<core::ServiceAccount>("default");
    accounts.wait("default", "exists", PATIENCE, |_| true)?;
    api.apply_yaml(
        // Pods of a node that does not exist are no backends.
        "apiVersion: v1\nkind: Node\nmetadata: {name: nowhere}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n\
         spec: {nodeName: nowhere, containers: [{name: web, image: none}]}\n",
    )?;
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": "10.244.3.4",
        "podIPs": [{ "ip": "10.244.3.4" }, { "ip": "fd00:244::4" }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    api.namespaced::<core::Pod>("default").patch_status("web", &status)?;
    let slices = api.namespaced::<k8s_openapi::api::discovery::v1::EndpointSlice>("default");
    eventually("the pod is a backend", PATIENCE, || {
        let slices = slices.list("kubernetes.io/service-name=web")?;
        let addresses: Vec<_> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .flat_map(|endpoint| &endpoint.addresses)
            .collect();
        ensure!(addresses == ["10.244.3.4"], "so far: {addresses:?}");
        Ok(())
    })?;
    down::remove(&name)
}
