//! The Kubernetes objects of a [`ServiceSet`].
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::services::{
    NAMESPACE, SERVER_PORT, SERVICE_PORT, SINGLE_NAME, SINGLE_PORT, SINGLE_SERVER_PORT, SINGLE_VIP,
    ServiceSet,
};

/// A service, by index.
pub(crate) fn service(index: usize) -> Value {
    service_object(&ServiceSet::name(index), ServiceSet::vip(index), "TCP", SERVICE_PORT, SERVER_PORT)
}

/// The slice of a numbered service, with these endpoints.
pub(crate) fn slice(index: usize, endpoints: &[Ipv4Addr]) -> Value {
    slice_object(&ServiceSet::name(index), "TCP", SERVER_PORT, endpoints)
}

/// The service of one endpoint and its slice.
pub(crate) fn single(endpoint: Ipv4Addr) -> [Value; 2] {
    [
        service_object(SINGLE_NAME, SINGLE_VIP, "UDP", SINGLE_PORT, SINGLE_SERVER_PORT),
        slice_object(SINGLE_NAME, "UDP", SINGLE_SERVER_PORT, &[endpoint]),
    ]
}

/// A service of one port.
pub(crate) fn service_object(name: &str, vip: Ipv4Addr, protocol: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip,
            "clusterIPs": [vip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "main", "protocol": protocol, "port": port, "targetPort": target }],
        },
    })
}

/// The slice of a service, with these endpoints.
pub(crate) fn slice_object(service: &str, protocol: &str, port: u16, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|addr| {
            json!({
                "addresses": [addr],
                "conditions": { "ready": true, "serving": true, "terminating": false },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("{service}-ipv4"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "main", "protocol": protocol, "port": port }],
    })
}

/// Lets the client and `peers` more addresses reach the servers, one rule each.
pub(crate) fn policy(peers: usize) -> Value {
    let blocks = (0..peers).map(|peer| json!({ "ipBlock": { "cidr": format!("{}/32", peer_addr(peer)) } }));
    let client = json!({ "podSelector": { "matchLabels": { "app": "client" } } });
    let from: Vec<Value> = blocks.chain([client]).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": NAMESPACE, "name": "servers" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "server" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": from }],
        },
    })
}

/// A pod of another node with a label of its own.
pub(crate) fn remote_pod(number: usize) -> Value {
    let offset = u32::try_from(number).expect("few pods");
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + offset);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("remote-{number:05}"),
            "uid": format!("00000000-0000-4000-9000-{number:012x}"),
            "labels": { "app": "remote", "group": group(number) },
        },
        "spec": { "nodeName": "elsewhere", "containers": [{ "name": "main", "image": "none" }] },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// The label that tells the pods of the cluster apart.
pub(crate) fn group(number: usize) -> String {
    format!("g-{number:05}")
}

/// Lets pods with one label into pods with another.
pub(crate) fn ingress_policy(name: &str, into: (&str, &str), from: (&str, &str)) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": {
            "podSelector": { "matchLabels": { into.0: into.1 } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { from.0: from.1 } } }] }],
        },
    })
}

/// An address outside of the cluster. Every second one, so that no two blocks are one.
fn peer_addr(peer: usize) -> Ipv4Addr {
    let offset = u32::try_from(peer * 2).expect("few peers");
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 0).to_bits() + offset)
}
