//! The rows of policy.md §2.1.
use agent_core::{
    model::{
        Protocol,
        policy::{NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch},
        selector::{LabelSelector, Operator},
        small_set::SmallSet,
    },
    update::{Change, Update},
};
use dataplane_common::net::proto;

use super::pods;
use crate::lab::objects::{
    a_policy, anything, block, egress, ingress, labels, name, named, namespace, on, peers, pod, pods_of,
    pods_where, policy, port, require, selecting, tcp,
};

/// A spec of the suite.
pub(crate) struct Row {
    pub(crate) spec: &'static str,
    pub(crate) pods: &'static str,
    pub(crate) steps: Vec<Step>,
}

/// Changes, then one matrix of probes. What is not blocked is open.
pub(crate) struct Step {
    pub(crate) updates: Vec<Update>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) blocked: &'static str,
}

fn row(spec: &'static str, pods: &'static str, steps: Vec<Step>) -> Row {
    Row { spec, pods, steps }
}

fn step(updates: Vec<Update>, port: u16, blocked: &'static str) -> Step {
    Step { updates, protocol: proto::TCP, port, blocked }
}

fn udp_step(updates: Vec<Update>, port: u16, blocked: &'static str) -> Step {
    Step { protocol: proto::UDP, ..step(updates, port, blocked) }
}

fn all() -> LabelSelector {
    LabelSelector::default()
}

fn a() -> LabelSelector {
    selecting("pod=a")
}

fn values(values: &[&str]) -> SmallSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Namespaces by their default label.
fn ns(name: &str) -> LabelSelector {
    selecting(&format!("kubernetes.io/metadata.name={name}"))
}

fn ns_not(name: &str) -> LabelSelector {
    require("kubernetes.io/metadata.name", Operator::NotIn(values(&[name])))
}

fn ns_in(name: &str) -> LabelSelector {
    require("kubernetes.io/metadata.name", Operator::In(values(&[name])))
}

fn pod_in(names: &[&str]) -> LabelSelector {
    require("pod", Operator::In(values(names)))
}

/// Pods of the policy's own namespace.
fn here(pods: LabelSelector) -> Peer {
    pods_of("x", pods)
}

fn from_ns(namespaces: LabelSelector) -> PolicyRule {
    peers(vec![pods_where(namespaces, all())])
}

fn from(namespaces: LabelSelector, pods: LabelSelector) -> PolicyRule {
    peers(vec![pods_where(namespaces, pods)])
}

/// A policy of namespace x named `p`.
fn p_in(pods: LabelSelector, rules: Vec<PolicyRule>) -> Vec<Update> {
    vec![ingress("x/p", pods, rules)]
}

fn p_out(pods: LabelSelector, rules: Vec<PolicyRule>) -> Vec<Update> {
    vec![egress("x/p", pods, rules)]
}

/// Isolates every pod of a namespace in both directions.
pub(crate) fn deny_all(policy_name: &str) -> Update {
    let isolating = a_policy(policy_name, all());
    policy(NetworkPolicy { ingress: Some(Vec::new()), egress: Some(Vec::new()), ..isolating })
}

fn both(name: &str, pods: LabelSelector, ingress: Vec<PolicyRule>, egress: Vec<PolicyRule>) -> Update {
    policy(NetworkPolicy { ingress: Some(ingress), egress: Some(egress), ..a_policy(name, pods) })
}

fn range_any(protocol: Protocol) -> PolicyPort {
    port(protocol, PortMatch::Any)
}

fn number(protocol: Protocol, number: u16) -> PolicyPort {
    port(protocol, PortMatch::Range { first: number, last: number })
}

fn delete(policy_name: &str) -> Vec<Update> {
    vec![Update::NetworkPolicy(Change::Delete(name(policy_name)))]
}

/// The pod of a row under new labels.
fn relabel(row_pods: &str, pod_name: &str, text: &str) -> Vec<Update> {
    let mut found =
        pods(row_pods).into_iter().find(|pod| pod.name.to_string() == pod_name).expect("a pod of the row");
    found.labels = labels(text);
    vec![pod(found)]
}

/// A peer for both families: an IPv4 block and its twin.
fn twin_blocks(cidr: (&str, &[&str]), twin: (&str, &[&str])) -> PolicyRule {
    peers(vec![block(cidr.0, cidr.1), block(twin.0, twin.1)])
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn rows() -> Vec<Row> {
    let from_y_81 = || p_in(a(), vec![on(from_ns(ns("y")), vec![tcp(81)])]);
    let around_b = || {
        let block = twin_blocks(("0.0.0.0/4", &["10.1.0.2/32"]), ("fd00::a01:0/112", &["fd00::a01:2/128"]));
        p_out(a(), vec![block])
    };
    let only_b = || p_out(a(), vec![twin_blocks(("10.1.0.2/32", &[]), ("fd00::a01:2/128", &[]))]);
    vec![
        row("1", "x/a,b y/a,b", vec![step(p_in(all(), vec![]), 80, "all>x/a,x/b")]),
        row("2", "x/a,b y/a", vec![step(vec![deny_all("x/p")], 80, "all>x/a,x/b x/a,x/b>all")]),
        row(
            "3",
            "x/a,b,c y/a",
            vec![step(p_in(a(), vec![peers(vec![here(selecting("pod=b"))])]), 80, "x/c,y/a>x/a")],
        ),
        row(
            "4",
            "x/a,b y/a",
            vec![step(
                [p_in(all(), vec![]), vec![ingress("x/allow", a(), vec![from(all(), all())])]].concat(),
                80,
                "x/a,y/a>x/b",
            )],
        ),
        row("5", "x/a,b y/a z/a", vec![step(p_in(a(), vec![from_ns(all())]), 80, "")]),
        row("6", "x/a,b y/a z/a", vec![step(p_in(a(), vec![from_ns(ns("y"))]), 80, "x/b,z/a>x/a")]),
        row("7", "x/a,b y/a", vec![step(p_in(a(), vec![peers(vec![here(pod_in(&["b"]))])]), 80, "y/a>x/a")]),
        row("8", "x/a,b y/a z/a", vec![step(p_in(a(), vec![from_ns(ns_in("y"))]), 80, "x/b,z/a>x/a")]),
        row(
            "9",
            "x/a,b,c y/a",
            vec![step(
                p_in(a(), vec![peers(vec![pods_where(ns_not("x"), all()), here(selecting("pod=b"))])]),
                80,
                "x/c>x/a",
            )],
        ),
        row(
            "10",
            "x/a,b y/a,b z/b",
            vec![step(p_in(a(), vec![from(ns_not("x"), selecting("pod=b"))]), 80, "x/b,y/a>x/a")],
        ),
        row(
            "11",
            "x/a,b y/a,b,c",
            vec![step(p_in(a(), vec![from(ns_not("x"), pod_in(&["b", "c"]))]), 80, "x/b,y/a>x/a")],
        ),
        row(
            "12",
            "x/a,b,c",
            vec![step(
                p_in(a(), vec![peers(vec![here(selecting("pod=b")), here(selecting("pod=c"))])]),
                80,
                "",
            )],
        ),
        row("13", "x/a,b y/a,b z/a", vec![step(p_in(a(), vec![from(ns("y"), a())]), 80, "x/b,y/b,z/a>x/a")]),
        row("14", "x/a,b y/a,b z/a", vec![step(from_y_81(), 81, "x/b,z/a>x/a")]),
        row(
            "15",
            "x/a,b y/a,b z/a",
            vec![
                step(from_y_81(), 81, "x/b,z/a>x/a"),
                step(vec![], 80, "all>x/a"),
                step(
                    vec![ingress("x/second", a(), vec![on(from_ns(ns("y")), vec![tcp(80)])])],
                    81,
                    "x/b,z/a>x/a",
                ),
                step(vec![], 80, "x/b,z/a>x/a"),
            ],
        ),
        row("16", "x/a,b y/a", vec![step(p_in(all(), vec![anything()]), 80, ""), step(vec![], 81, "")]),
        row(
            "17",
            "x/a,b y/a",
            vec![
                step(p_in(all(), vec![on(anything(), vec![named("serve-81-tcp")])]), 81, ""),
                step(vec![], 80, "all>x/a,x/b"),
            ],
        ),
        row(
            "18",
            "x/a,b y/a z/a",
            vec![
                step(p_in(a(), vec![on(from_ns(ns("y")), vec![named("serve-80-tcp")])]), 80, "x/b,z/a>x/a"),
                step(vec![], 81, "all>x/a"),
            ],
        ),
        row(
            "19",
            "x/a y/a",
            vec![
                step(p_out(all(), vec![on(anything(), vec![named("serve-80-tcp")])]), 80, ""),
                step(vec![], 81, "x/a>y/a"),
            ],
        ),
        row(
            "43",
            "x/a y/a",
            vec![step(p_in(a(), vec![on(anything(), vec![named("no-such-port")])]), 80, "y/a>x/a")],
        ),
        row(
            "20",
            "x/a y/a",
            vec![step(p_in(all(), vec![anything()]), 81, ""), step(p_in(all(), vec![]), 81, "y/a>x/a")],
        ),
        row(
            "21",
            "x/a y/a",
            vec![
                step(p_in(a(), vec![from_ns(selecting("ns2=updated"))]), 80, "y/a>x/a"),
                step(vec![namespace("y", "ns2=updated")], 80, ""),
            ],
        ),
        row(
            "22",
            "x/a,b",
            vec![
                step(p_in(a(), vec![peers(vec![here(selecting("pod=b pod2=updated"))])]), 80, "x/b>x/a"),
                step(relabel("x/a,b", "x/b", "pod=b pod2=updated"), 80, ""),
            ],
        ),
        row(
            "23",
            "x/a,b y/a z/a",
            vec![step(p_in(all(), vec![peers(vec![here(all())])]), 80, "y/a,z/a>x/a,x/b")],
        ),
        row(
            "24",
            "x/a y/a",
            vec![
                step(p_in(selecting("target=isolated"), vec![]), 80, ""),
                step(relabel("x/a y/a", "x/a", "pod=a target=isolated"), 80, "y/a>x/a"),
            ],
        ),
        row("25", "x/a,b y/a", vec![step(p_out(a(), vec![]), 80, "x/a>x/b,y/a")]),
        row("26", "x/a,b y/a", vec![step(p_out(all(), vec![]), 80, "x/a,x/b>all")]),
        row(
            "27",
            "x/a,b,c y/a",
            vec![
                step(
                    vec![both(
                        "x/p",
                        a(),
                        vec![peers(vec![here(selecting("pod=b"))])],
                        vec![on(anything(), vec![tcp(80)])],
                    )],
                    80,
                    "x/c,y/a>x/a",
                ),
                step(vec![], 81, "x/c,y/a>x/a x/a>x/b,x/c,y/a"),
            ],
        ),
        row(
            "28",
            "x/a y/a,b",
            vec![step(
                vec![
                    egress("x/p", a(), vec![from(ns("y"), a())]),
                    ingress("y/a", a(), vec![from(ns("x"), a())]),
                    ingress("y/b", selecting("pod=b"), vec![from(ns("x"), a())]),
                ],
                80,
                "x/a>y/b y/a>y/b y/b>y/a",
            )],
        ),
        row("29", "x/a y/a,b", vec![step(p_out(a(), vec![from(ns("y"), a())]), 80, "x/a>y/b")]),
        row(
            "30",
            "x/a y/a",
            vec![
                step(p_in(a(), vec![on(anything(), vec![range_any(Protocol::Tcp)])]), 80, ""),
                udp_step(vec![], 80, "y/a>x/a"),
            ],
        ),
        row(
            "31",
            "x/a y/a",
            vec![
                step(p_in(all(), vec![on(anything(), vec![tcp(80)])]), 81, "y/a>x/a"),
                step(vec![ingress("x/all", all(), vec![anything()])], 81, ""),
            ],
        ),
        row(
            "32",
            "x/a y/a",
            vec![
                step(p_out(all(), vec![on(anything(), vec![tcp(80)])]), 81, "x/a>y/a"),
                step(vec![egress("x/all", all(), vec![anything()])], 81, ""),
            ],
        ),
        row(
            "33",
            "x/a y/a",
            vec![step(vec![deny_all("x/p")], 80, "x/a>y/a y/a>x/a"), step(delete("x/p"), 80, "")],
        ),
        row(
            "34",
            "x/a y/a,b",
            vec![step(
                p_out(a(), vec![twin_blocks(("10.1.0.3/32", &[]), ("fd00::a01:3/128", &[]))]),
                80,
                "x/a>y/a",
            )],
        ),
        row("35", "x/a,b,c", vec![step(around_b(), 80, "x/a>x/b")]),
        row("36", "x/a,b,c", vec![step(around_b(), 80, "x/a>x/b"), step(only_b(), 80, "x/a>x/c")]),
        row(
            "37",
            "x/a,b y/a",
            vec![
                step(vec![egress("x/out", a(), vec![anything()])], 80, ""),
                step(vec![ingress("x/in", a(), vec![])], 80, "x/b,y/a>x/a"),
            ],
        ),
        row(
            "38",
            "x/a y/a",
            vec![step(
                [
                    p_in(all(), vec![]),
                    vec![ingress("x/sctp", a(), vec![on(anything(), vec![number(Protocol::Sctp, 81)])])],
                ]
                .concat(),
                81,
                "y/a>x/a",
            )],
        ),
        row(
            "39",
            "x/a y/a",
            vec![step(p_in(a(), vec![on(anything(), vec![number(Protocol::Sctp, 80)])]), 81, "y/a>x/a")],
        ),
        row(
            "40",
            "x/a y/a",
            vec![step(p_in(a(), vec![on(anything(), vec![number(Protocol::Udp, 81)])]), 81, "y/a>x/a")],
        ),
        row("41", "x/a,b y/a z/a", vec![step(p_in(a(), vec![from_ns(ns("y"))]), 80, "x/b,z/a>x/a")]),
        row("42", "x/a y/a", vec![step(p_out(a(), vec![from_ns(ns_not("y"))]), 80, "x/a>y/a")]),
        row("44", "x/a,b y/a,b", vec![udp_step(p_in(all(), vec![]), 80, "all>x/a,x/b")]),
        row(
            "45",
            "x/a,b y/a z/a",
            vec![udp_step(
                p_in(a(), vec![on(from_ns(ns("y")), vec![number(Protocol::Udp, 81)])]),
                81,
                "x/b,z/a>x/a",
            )],
        ),
        row("46", "x/a,b y/a", vec![udp_step(p_in(a(), vec![from(ns("y"), a())]), 80, "x/b>x/a")]),
    ]
}
