//! What the product does not carry out, and what is wrong with a cluster, is said: once, and so that it can be read.
use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::PodSpec,
    eventually::{PATIENCE, eventually},
    kernel,
    probe::wire::{Target, Transport},
    topology::{AgentOptions, Node, Options, Pod, Topology},
};
use serde_json::{Value, json};

use crate::expect::{becomes_answered, is_answered_by};

/// How many problems have all of these words.
fn with_words(node: &Node, words: &[&str]) -> Result<usize> {
    let problems = node.status()?.problems;
    Ok(problems.iter().filter(|problem| words.iter().all(|word| problem.contains(word))).count())
}

fn becomes(node: &Node, words: &[&str], count: usize) -> Result<()> {
    eventually(format!("{words:?} are in {count} problems of {}", node.spec().name), PATIENCE, || {
        let found = with_words(node, words)?;
        ensure!(found == count, "they are in {found} of {:#?}", node.status()?.problems);
        Ok(())
    })
}

/// A Service with everything that this build does not carry out.
fn demanding(labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "default", "name": "demanding", "labels": labels },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.7.7",
            "clusterIPs": ["10.96.7.7", "fd00:10:96::7:7"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                { "name": "web", "port": 8080, "targetPort": 80, "nodePort": 30080 },
                { "name": "signal", "port": 36412, "protocol": "SCTP" },
            ],
            "externalIPs": ["203.0.113.7"],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": ["198.51.100.0/24"],
            "sessionAffinity": "ClientIP",
            "trafficDistribution": "PreferClose",
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.8" }] } },
    })
}

/// Fields of [`demanding`], as problems name them.
const DEMANDED: [&str; 7] = [
    "spec.type is LoadBalancer",
    "spec.externalIPs",
    "spec.externalTrafficPolicy is Local",
    "spec.loadBalancerSourceRanges",
    "spec.sessionAffinity is ClientIP",
    "spec.trafficDistribution is PreferClose",
    "spec.ports[].protocol is SCTP",
];

/// The EndpointSlices of the demanding Service: one of each family, with this pod and this port.
fn endpoints(topology: &Topology, server: &Pod, port: &Value) -> Result<()> {
    for (family, name, to) in [("IPv4", "v4", server.at(80)[0]), ("IPv6", "v6", server.at(80)[1])] {
        topology.control_plane.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": format!("demanding-{name}"),
                "labels": { "kubernetes.io/service-name": "demanding" },
            },
            "addressType": family,
            "endpoints": [{ "addresses": [to.ip()] }],
            "ports": [port],
        }))?;
    }
    Ok(())
}

#[test]
fn what_a_service_asks_for_in_vain_is_said_once_until_it_asks_no_more() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let node = topology.node(0);
    for round in 0..3 {
        topology.control_plane.apply(&demanding(&json!({ "round": round.to_string() })))?;
        topology.settle()?;
    }
    for field in DEMANDED {
        becomes(node, &["Service default/demanding", field], 1)?;
        let logged = node.log().lines().filter(|line| line.contains(field)).count();
        assert_eq!(logged, 1, "{field} in the log");
    }
    let status = node.millrace(&["status"])?;
    assert!(DEMANDED.iter().all(|field| status.text.contains(field)), "{}", status.text);
    let listed = node.millrace(&["service", "list"])?.text;
    assert!(listed.contains("/sctp") && listed.contains("only where"), "SCTP as if it worked:\n{listed}");

    // What it asks for within the cluster works.
    let server = topology.add_pod(PodSpec::new("default", "server"))?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    server.probe().listen(Transport::Tcp, 80)?;
    endpoints(&topology, &server, &json!({ "name": "web", "port": 80 }))?;
    for to in ["10.96.7.7:8080", "[fd00:10:96::7:7]:8080"] {
        becomes_answered(client.probe(), Target::tcp(to.parse()?))?;
    }

    // Field by field.
    let mut plain = demanding(&json!({}));
    let spec = plain["spec"].as_object_mut().context("a spec")?;
    for field in ["externalIPs", "externalTrafficPolicy", "loadBalancerSourceRanges", "sessionAffinity"] {
        spec.remove(field);
    }
    topology.control_plane.apply(&plain)?;
    for field in &DEMANDED[1..5] {
        becomes(node, &[field], 0)?;
    }
    becomes(node, &["Service default/demanding"], 3)?;
    topology.control_plane.delete("Service", "default", "demanding")?;
    becomes(node, &["Service default/demanding"], 0)?;
    topology.close()
}

#[test]
fn beside_a_kube_proxy_what_it_does_is_no_problem() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    let arguments = ["--services", "kube-proxy"].map(str::to_owned).to_vec();
    topology.control_plane.apply(&demanding(&json!({})))?;
    node.spawn_agent(&AgentOptions { arguments, ..AgentOptions::default() })?;
    node.await_agent()?;
    becomes(node, &["spec.sessionAffinity"], 1)?;
    for field in &DEMANDED[..4] {
        assert_eq!(with_words(node, &[field])?, 0, "{field}: {:#?}", node.status()?.problems);
    }
    assert!(!node.log().contains("spec.externalIPs"), "{}", node.log());
    topology.control_plane.label_node(node.spec(), &[("millrace.io/services", "millrace")])?;
    for field in DEMANDED {
        becomes(node, &["Service default/demanding", field], 1)?;
        assert!(node.log().contains(field), "{field} is not in the log");
    }
    topology.close()
}

#[test]
fn a_port_of_the_node_that_a_pod_does_not_get_is_said_on_its_node() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    for (name, node, host_network) in [("near", 0, false), ("far", 1, false), ("host", 0, true)] {
        topology.control_plane.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "default", "name": name, "uid": name },
            "spec": {
                "nodeName": topology.node(node).spec().name,
                "hostNetwork": host_network,
                "containers": [{ "name": "main", "ports": [{ "containerPort": 80, "hostPort": 8081 }] }],
            },
        }))?;
    }
    topology.settle()?;
    for (index, name) in [(0, "near"), (1, "far")] {
        let node = topology.node(index);
        becomes(node, &["hostPort is 8081"], 1)?;
        becomes(node, &[&format!("Pod default/{name}"), "hostPort is 8081"], 1)?;
    }
    topology.control_plane.delete("Pod", "default", "near")?;
    becomes(topology.node(0), &["hostPort"], 0)?;
    topology.close()
}

#[test]
fn a_slice_port_without_a_number_leads_to_the_services_own() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::start()?;
    let server = topology.add_pod(PodSpec::new("default", "server").on(1))?;
    let client = topology.add_pod(PodSpec::new("default", "client"))?;
    server.probe().listen(Transport::Tcp, 8080)?;
    let mut plain = demanding(&json!({}));
    plain["spec"] = json!({
        "clusterIPs": ["10.96.7.7", "fd00:10:96::7:7"],
        "ports": [{ "name": "web", "port": 8080 }],
    });
    topology.control_plane.apply(&plain)?;
    endpoints(&topology, &server, &json!({ "name": "web" }))?;
    topology.settle()?;
    for to in ["10.96.7.7:8080", "[fd00:10:96::7:7]:8080"] {
        is_answered_by("default/server", client.probe(), Target::tcp(to.parse()?))?;
    }
    assert_eq!(topology.node(0).status()?.problems, Vec::<String>::new());
    topology.close()
}

/// A list of `count` objects as JSON.
fn list(count: u32, object: impl Fn(u32) -> String) -> String {
    let mut text = String::from(r#"{"apiVersion":"v1","kind":"List","items":["#);
    for n in 0..count {
        let separator = if n == 0 { "" } else { ",\n" };
        let _infallible = write!(text, "{separator}{}", object(n));
    }
    text + "]}"
}

#[test]
fn tens_of_thousands_of_problems_can_be_read_and_make_no_node_unready() -> Result<()> {
    kernel::require(kernel::NETNS);
    let topology = Topology::build(&Options { nodes: 1, keep: false, apart: false })?;
    let node = topology.node(0);
    // Each wrong in a way of its own.
    let broken = list(15_000, |n| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"shop","name":"broken-with-a-long-name-{n}"}},"spec":{{"clusterIP":"10.100.0.1","ports":[{{"port":{}}}]}}}}"#,
            70_000 + n
        )
    });
    fs::write(node.manifests().join("broken.json"), broken)?;
    // All alike: not wrong, but not carried out.
    let alike = list(10_000, |n| {
        let [.., third, fourth] = n.to_be_bytes();
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"mall","name":"outside-{n:05}"}},"spec":{{"type":"NodePort","clusterIP":"10.101.{third}.{fourth}","ports":[{{"port":80,"nodePort":30000}}]}}}}"#
        )
    });
    fs::write(node.manifests().join("alike.json"), alike)?;
    let slice = list(1, |_| {
        let endpoints = vec![r#"{"addresses":["nonsense"]}"#; 1_000].join(",");
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"namespace":"mall","name":"wrong","labels":{{"kubernetes.io/service-name":"x"}}}},"addressType":"IPv4","endpoints":[{endpoints}]}}"#
        )
    });
    fs::write(node.manifests().join("slice.json"), slice)?;
    topology.control_plane.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": "broken" },
        "spec": { "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.0.0.0/99" } }] }] },
    }))?;
    let pod = topology.prepare_pod(PodSpec::new("default", "pod"))?;
    node.start_agent()?;
    eventually("all of it is in the maps", PATIENCE + PATIENCE, || {
        ensure!(node.status()?.revision > 0, "nothing yet");
        Ok(())
    })?;

    let mut call = pod.cni_call(node, "STATUS");
    (call.container_id, call.netns, call.ifname, call.args) = (None, None, None, None);
    eventually("STATUS succeeds", PATIENCE, || Ok(node.cni(&call)??))?;
    topology.attach_pod(&pod)?;

    let problems = node.status()?.problems;
    assert!(problems.len() < 250, "{} problems", problems.len());
    let found =
        |words: &[&str]| problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)));
    assert!(found(&["NetworkPolicy default/broken", "10.0.0.0/99"]), "hidden by others: {problems:#?}");
    assert!(
        found(&["Service mall/outside-00000", "and 9997 more", "spec.type is NodePort"]),
        "{problems:#?}"
    );
    assert!(found(&["EndpointSlice mall/wrong: and 995 more like these"]), "{problems:#?}");
    assert!(found(&["more problems beside these"]), "{problems:#?}");
    let status = node.millrace(&["status"])?;
    assert!(status.code == Some(0) && status.text.lines().count() < 400, "{}", status.text);
    let warnings = node.log().lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 500, "{warnings} warnings in the log");
    topology.close()
}
