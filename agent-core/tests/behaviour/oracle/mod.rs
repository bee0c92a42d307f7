//! The table of policy.md §2.1: every TCP spec of the Kubernetes suite and every step of it, for the reference and
//! for the compiled maps, in both families.
mod table;

use agent_core::{
    model::workload::Pod,
    oracle::{self, Subject},
};
use dataplane_common::{net::proto, policy::Direction};

use self::table::{Step, rows};
use crate::lab::{
    Lab,
    objects::{a_pod, container_port, local_pod, namespace, twin},
};

/// The pods of a row: `x/a,b y/a`. Each serves 80 and 81 under the names of the suite.
pub(crate) fn pods(text: &str) -> Vec<Pod> {
    let names = text.split_whitespace().flat_map(|group| {
        let (namespace, names) = group.split_once('/').expect("namespace/names");
        names.split(',').map(move |name| (namespace, name))
    });
    let pods = names.zip(1..).map(|((namespace, name), number)| {
        let mut pod =
            a_pod(&format!("{namespace}/{name}"), &format!("10.1.0.{number}"), &format!("pod={name}"));
        for port in [80, 81] {
            for protocol in [agent_core::model::Protocol::Tcp, agent_core::model::Protocol::Udp] {
                let name = format!("serve-{port}-{}", protocol.to_string().to_lowercase());
                pod.ports.push(container_port(&name, protocol, port));
            }
        }
        pod
    });
    pods.collect()
}

/// `x/b,z/a>x/a y/a>x/a,x/b`: which pod may not reach which; `all` stands for every other one.
fn is_blocked(blocked: &str, from: &Pod, to: &Pod) -> bool {
    let holds =
        |list: &str, pod: &Pod| list.split(',').any(|item| item == "all" || item == pod.name.to_string());
    blocked.split_whitespace().any(|arrow| {
        let (sources, destinations) = arrow.split_once('>').expect("sources>destinations");
        holds(sources, from) && holds(destinations, to)
    })
}

fn check(lab: &Lab, pods: &[Pod], spec: &str, step: usize, Step { port, blocked, protocol, .. }: &Step) {
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            for family in 0..2 {
                let (source, destination) = (from.ips[family], to.ips[family]);
                let expected = !is_blocked(blocked, from, to);
                let (a, b) = (Subject::Address(source), Subject::Address(destination));
                let judgement = oracle::judge(&lab.state, a, b, *protocol, *port);
                let case = format!(
                    "spec {spec} step {step}: {} > {} port {port} ({judgement:?})",
                    from.name, to.name
                );
                assert_eq!(judgement.is_allowed(), expected, "oracle: {case}");
                let side = |direction| lab.maps.judge(direction, source, destination, *protocol, *port);
                let allowed =
                    side(Direction::Egress) != Some(false) && side(Direction::Ingress) != Some(false);
                assert_eq!(allowed, expected, "maps: {case}");
            }
        }
    }
}

#[test]
fn every_tcp_and_udp_spec_of_the_kubernetes_suite_holds() {
    let rows = rows();
    assert_eq!(rows.len(), 46, "43 TCP specs and 3 UDP specs");
    for row in rows {
        let pods = pods(row.pods);
        let namespaces = ["x", "y", "z"].map(|name| namespace(name, ""));
        let mut lab = Lab::with(namespaces.into_iter().chain(pods.iter().flat_map(local_pod)));
        for (number, step) in row.steps.iter().enumerate() {
            for update in &step.updates {
                lab.apply(update.clone());
            }
            check(&lab, &pods, row.spec, number, step);
            // Tidying changes nothing that anybody can see.
            lab.tidy();
            check(&lab, &pods, row.spec, number, step);
        }
    }
}

#[test]
fn before_any_policy_everything_is_open() {
    let pods = pods("x/a,b y/a");
    let lab = Lab::with(pods.iter().flat_map(local_pod));
    for port in [80, 81] {
        let open = Step { updates: Vec::new(), port, protocol: proto::TCP, blocked: "" };
        check(&lab, &pods, "none", 0, &open);
    }
}

#[test]
fn a_pod_always_reaches_itself_and_is_reached_by_its_node() {
    let pods = pods("x/a");
    let deny = table::deny_all("x/deny");
    let lab = Lab::with(pods.iter().flat_map(local_pod).chain([deny]));
    for addr in [pods[0].ips[0], twin(pods[0].ips[0])] {
        let pod = Subject::Address(addr);
        let node = Subject::OwnNode("192.168.0.1".parse().unwrap());
        let judge = |source, destination| oracle::judge(&lab.state, source, destination, proto::TCP, 80);
        assert!(judge(pod, pod).is_allowed());
        assert!(judge(node, pod).is_allowed());
        assert_eq!(
            judge(pod, node).denied_by(),
            Some(Direction::Egress),
            "to its node it is subject to policy"
        );
    }
}
