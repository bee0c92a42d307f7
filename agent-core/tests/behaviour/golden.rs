//! Objects in, readable maps out. `MILLRACE_BLESS=1 cargo test -p agent-core golden` writes the expectations anew.
use std::{fs, path::PathBuf};

use agent_core::{
    dump::dump,
    model::{
        Protocol,
        policy::{NetworkPolicy, PortMatch},
        service::{SliceEndpoint, TrafficPolicy},
    },
    table::Table,
    update::Update,
};

use crate::lab::{
    Lab,
    objects::{
        a_pod, a_policy, a_service, a_slice, anything, block, container_port, egress, ingress, local_pod,
        named, namespace, node, on, peers, pod, pods_of, pods_where, policy, port, ready, selecting, service,
        slice, tcp,
    },
};

fn check(behaviour: &str, updates: Vec<Update>) {
    let lab = Lab::with(updates);
    let found: String = Table::every_map().map(|map| dump(map, lab.maps.entries(map))).collect();
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/behaviour/golden", behaviour].iter().collect();
    let path = path.with_extension("maps");
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        fs::write(&path, &found).expect("the expectation can be written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs", path.display());
}

#[test]
fn cluster_ip_service() {
    let mut local_only = a_service("default/local", "10.96.0.2", 80);
    local_only.internal_traffic_policy = TrafficPolicy::Local;
    let draining = SliceEndpoint { ready: false, terminating: true, ..ready("10.2.0.3") };
    check(
        "cluster_ip_service",
        vec![
            service(a_service("default/web", "10.96.0.1", 80)),
            slice(a_slice(
                "default/web-1",
                "web",
                8080,
                vec![ready("10.2.0.2"), ready("10.2.0.1"), draining],
            )),
            slice(a_slice("default/web-6", "web", 8080, vec![ready("fd00::1")])),
            service(local_only),
            slice(a_slice("default/local-1", "local", 8080, vec![ready("10.2.0.9")])),
            service(a_service("default/empty", "10.96.0.3", 80)),
        ],
    );
}

#[test]
fn database_policy() {
    let database = a_pod("default/db", "10.1.0.1", "app=database");
    let mut updates = vec![
        namespace("default", ""),
        pod(a_pod("default/api", "10.2.0.1", "app=my-api")),
        pod(a_pod("default/other", "10.2.0.2", "app=other")),
        ingress(
            "default/database",
            selecting("app=database"),
            vec![on(peers(vec![pods_of("default", selecting("app=my-api"))]), vec![tcp(5432)])],
        ),
    ];
    updates.extend(local_pod(&database));
    check("database_policy", updates);
}

#[test]
fn address_ranges() {
    let mut updates = vec![egress(
        "x/out",
        selecting("app=a"),
        vec![
            peers(vec![block("10.0.0.0/8", &["10.1.0.0/16"])]),
            on(
                peers(vec![block("10.1.2.0/24", &[]), block("fd00::/8", &["fd00:1::/32"])]),
                vec![port(Protocol::Udp, PortMatch::Range { first: 53, last: 56 })],
            ),
        ],
    )];
    updates.extend(local_pod(&a_pod("x/a", "10.9.0.1", "app=a")));
    check("address_ranges", updates);
}

#[test]
fn named_ports_that_differ_from_pod_to_pod() {
    let with_http = |name: &str, addr: &str, number| {
        let mut pod = a_pod(name, addr, "app=web");
        pod.ports.push(container_port("http", Protocol::Tcp, number));
        pod
    };
    let mut updates = vec![
        namespace("x", "team=1"),
        pod(with_http("x/one", "10.2.0.1", 80)),
        pod(with_http("x/two", "10.2.0.2", 8080)),
        egress(
            "x/out",
            selecting("app=client"),
            vec![on(peers(vec![pods_where(selecting("team=1"), selecting("app=web"))]), vec![named("http")])],
        ),
        ingress("x/in", selecting("app=web"), vec![on(anything(), vec![named("http")])]),
    ];
    updates.extend(local_pod(&a_pod("x/client", "10.1.0.1", "app=client")));
    updates.extend(local_pod(&with_http("x/three", "10.1.0.2", 9090)));
    check("named_ports_that_differ_from_pod_to_pod", updates);
}

#[test]
fn isolation_and_routes() {
    let both = NetworkPolicy {
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
        ..a_policy("x/deny", selecting(""))
    };
    let mut updates = vec![
        policy(both),
        node("node-1", &["192.168.0.1", "fd01::1"], &["10.1.0.0/24"]),
        node("node-2", &["192.168.0.2", "fd01::2"], &["10.2.0.0/24", "fd00:2::/64"]),
    ];
    updates.extend(local_pod(&a_pod("x/a", "10.1.0.1", "")));
    updates.extend(local_pod(&a_pod("y/a", "10.1.0.2", "")));
    check("isolation_and_routes", updates);
}
