//! Specs to Kubernetes objects.
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{ClusterIps, NodeSpec, PodSpec, PodStatus, ServiceSpec};

pub(super) fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({ "kubernetes.io/metadata.name": name });
    for (key, value) in labels {
        all[*key] = json!(value);
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": all } })
}

pub(super) fn node(node: &NodeSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name },
        "spec": { "podCIDR": node.pod_cidrs[0], "podCIDRs": node.pod_cidrs },
        "status": { "addresses": [
            { "type": "InternalIP", "address": node.v4 },
            { "type": "InternalIP", "address": node.v6 },
            { "type": "Hostname", "address": node.name },
        ] },
    })
}

pub(super) fn pod(spec: &PodSpec, status: &PodStatus) -> Value {
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|(name, protocol, port)| {
            json!({ "name": name, "protocol": protocol.to_string(), "containerPort": port })
        })
        .collect();
    let mut metadata = json!({
        "namespace": spec.namespace,
        "name": spec.name,
        "uid": status.uid,
        "labels": spec.labels,
    });
    if let Some(hash) = &spec.static_hash {
        metadata["annotations"] = json!({
            "kubernetes.io/config.hash": hash,
            "kubernetes.io/config.mirror": hash,
            "kubernetes.io/config.source": "file",
        });
    }
    if status.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let phase = match (status.completed, status.ips.is_empty()) {
        (true, _) => "Succeeded",
        (false, true) => "Pending",
        (false, false) => "Running",
    };
    let ips: Vec<Value> = status.ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let ready = if status.ready { "True" } else { "False" };
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": spec.node_name,
            "containers": [{ "name": "main", "image": "netprobe", "ports": ports }],
        },
        "status": { "phase": phase, "podIPs": ips, "conditions": [{ "type": "Ready", "status": ready }] },
    });
    if let Some(first) = status.ips.first() {
        object["status"]["podIP"] = json!(first);
    }
    object
}

pub(super) fn service(spec: &ServiceSpec, ips: ClusterIps) -> Value {
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "protocol": port.protocol.to_string(),
                "port": port.port,
                "targetPort": port.target,
            })
        })
        .collect();
    let policy = if spec.local_only { "Local" } else { "Cluster" };
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": spec.namespace, "name": spec.name },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ips.v4,
            "clusterIPs": ips.both(),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "internalTrafficPolicy": policy,
            "ports": ports,
        },
    });
    if !spec.selector.is_empty() {
        object["spec"]["selector"] = json!(spec.selector);
    }
    object
}

/// The names of a Service's slices, IPv4 first.
pub(super) fn slice_names(service: &str) -> [String; 2] {
    [format!("{service}-ipv4"), format!("{service}-ipv6")]
}

/// The slices of a Service, one per family.
pub(super) fn slices(spec: &ServiceSpec, pods: &[&(PodSpec, PodStatus)]) -> [Value; 2] {
    let [v4, v6] = slice_names(&spec.name);
    [slice(spec, &v4, "IPv4", pods, IpAddr::is_ipv4), slice(spec, &v6, "IPv6", pods, IpAddr::is_ipv6)]
}

fn slice(
    spec: &ServiceSpec,
    name: &str,
    family: &str,
    pods: &[&(PodSpec, PodStatus)],
    of_family: fn(&IpAddr) -> bool,
) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .filter(|(_, status)| !status.completed)
        .filter_map(|(pod, status)| {
            let address = status.ips.iter().find(|ip| of_family(ip))?;
            Some(json!({
                "addresses": [address],
                "conditions": {
                    "ready": status.ready && !status.terminating,
                    "serving": status.ready,
                    "terminating": status.terminating,
                },
                "nodeName": pod.node_name,
                "targetRef": {
                    "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": status.uid,
                },
            }))
        })
        .collect();
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|port| json!({ "name": port.name, "protocol": port.protocol.to_string(), "port": port.target }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": spec.namespace,
            "name": name,
            "labels": { "kubernetes.io/service-name": spec.name },
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}
