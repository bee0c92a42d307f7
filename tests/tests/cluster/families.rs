//! The other address families, with the other rules of kube-proxy.
use anyhow::{Result, ensure};
use harness::{
    eventually::eventually,
    kubernetes::{Cluster, Network, Options, Proxy, address::Families, guard::Guard},
};
use k8s_openapi::api::core::v1 as core;

use crate::shared::{PATIENCE, in_pod, own_name, run_pod};

/// Runs a cluster of one node and asks a Service of its own at each of the Service's addresses, and by name.
fn a_service_answers(families: Families, part: &str, policy: &str) -> Result<()> {
    let name = own_name(part);
    let _guard = Guard::set(&name)?;
    let options = Options { nodes: 1, families, proxy: Proxy::Nftables, network: Network::Ptp };
    let cluster = Cluster::up(&name, &options, &|_| ())?;
    run_pod(&cluster, "server", "node-1")?;
    run_pod(&cluster, "client", "node-1")?;
    cluster.api().apply_yaml(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\n\
         spec: {{ipFamilyPolicy: {policy}, selector: {{pod: server}}, ports: [{{port: 80}}]}}\n"
    ))?;
    let spec = cluster.api().namespaced::<core::Service>("default").get("server")?.spec.unwrap_or_default();
    let addresses = spec.cluster_ips.unwrap_or_default();
    ensure!(addresses.len() == families.each().len(), "{addresses:?}");
    let hosts = addresses.iter().map(|address| {
        if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") }
    });
    for host in hosts.chain(["server.default.svc.cluster.local:80".to_owned()]) {
        let answer = eventually(format!("the client asks {host}"), PATIENCE, || {
            in_pod(&cluster, "client", &["ask", "tcp", &host])
        })?;
        ensure!(answer.starts_with("server "), "{host}: {answer}");
    }
    cluster.down()
}

#[test]
fn a_service_of_a_dual_stack_cluster_answers_over_both_families() -> Result<()> {
    a_service_answers(Families::Dual, "dual", "RequireDualStack")
}

#[test]
fn a_service_of_an_ipv6_cluster_answers() -> Result<()> {
    a_service_answers(Families::V6, "six", "SingleStack")
}
