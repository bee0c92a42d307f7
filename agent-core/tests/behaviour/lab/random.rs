//! Random clusters, small and crowded: few names, few addresses, few labels, so that things collide.
use std::net::IpAddr;

use agent_core::{
    model::{
        Protocol,
        policy::{NetworkPolicy, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports},
        selector::{LabelSelector, Operator},
        workload::Pod,
    },
    update::{Change, Update},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::objects::{
    a_pod, a_policy, block, container_port, endpoint_of, ip, name, namespace, pods_of, pods_where, port,
    require, selecting,
};

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Update(Box<Update>),
    Tidy,
}

/// Every address that a pod may have.
pub(crate) fn pod_addrs() -> Vec<IpAddr> {
    (1..=6).map(|number| ip(&format!("10.1.0.{number}"))).collect()
}

fn namespace_name() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "y"])
}

fn pod_name() -> impl Strategy<Value = String> {
    (namespace_name(), select(vec!["a", "b", "c"]))
        .prop_map(|(namespace, name)| format!("{namespace}/{name}"))
}

fn pod_labels() -> impl Strategy<Value = &'static str> {
    select(vec!["", "app=a", "app=b", "app=a tier=1", "app=b tier=2"])
}

fn pod() -> impl Strategy<Value = Pod> {
    let ports = vec((select(vec!["http", "sql"]), protocol(), select(vec![80, 81, 8080])), 0..3);
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (pod_name(), select(pod_addrs()), pod_labels(), ports, flags).prop_map(
        |(name, addr, labels, ports, (host_network, completed))| {
            let ports = ports.into_iter().map(|(name, protocol, port)| container_port(name, protocol, port));
            Pod { ports: ports.collect(), host_network, completed, ..a_pod(&name, &addr.to_string(), labels) }
        },
    )
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    select(vec![
        selecting(""),
        selecting("app=a"),
        selecting("app=b"),
        require("app", Operator::NotIn(values(&["a"]))),
        require("tier", Operator::Exists),
        require("tier", Operator::DoesNotExist),
    ])
}

fn namespace_selector() -> impl Strategy<Value = LabelSelector> {
    select(vec![selecting(""), selecting("team=1"), require("team", Operator::DoesNotExist)])
}

fn peer() -> impl Strategy<Value = Peer> {
    let blocks = select(vec![
        block("0.0.0.0/0", &[]),
        block("0.0.0.0/0", &["10.1.0.0/30"]),
        block("10.1.0.0/29", &["10.1.0.2/32", "10.1.0.4/31"]),
        block("10.1.0.4/31", &[]),
        block("10.1.0.2/32", &[]),
        block("fd00::/16", &["fd00::a01:4/126"]),
        block("::/0", &[]),
    ]);
    prop_oneof![
        (namespace_name(), selector()).prop_map(|(namespace, pods)| pods_of(namespace, pods)),
        (namespace_selector(), selector()).prop_map(|(namespaces, pods)| pods_where(namespaces, pods)),
        blocks,
    ]
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let ranges = select(vec![(80, 80), (80, 81), (79, 8080), (1, 65535), (81, 80)]);
    let matches = prop_oneof![
        Just(PortMatch::Any),
        ranges.prop_map(|(first, last)| PortMatch::Range { first, last }),
        select(vec!["http", "sql"]).prop_map(|name| PortMatch::Named(name.into())),
    ];
    (protocol(), matches).prop_map(|(protocol, matched)| port(protocol, matched))
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let peers = prop_oneof![1 => Just(Peers::Any), 3 => vec(peer(), 0..3).prop_map(Peers::OneOf)];
    let ports = prop_oneof![1 => Just(Ports::Any), 2 => vec(policy_port(), 0..3).prop_map(Ports::OneOf)];
    (peers, ports).prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::of(vec(rule(), 0..3));
    (namespace_name(), select(vec!["p", "q"]), selector(), rules(), rules()).prop_map(
        |(namespace, name, pods, ingress, egress)| NetworkPolicy {
            ingress,
            egress,
            ..a_policy(&format!("{namespace}/{name}"), pods)
        },
    )
}

fn update() -> impl Strategy<Value = Update> {
    let teams = select(vec!["", "team=1", "team=2"]);
    prop_oneof![
        6 => pod().prop_map(|pod| Update::Pod(Change::Apply(pod))),
        4 => pod().prop_map(|pod| Update::Endpoint(Change::Apply(endpoint_of(&pod)))),
        6 => policy().prop_map(|policy| Update::NetworkPolicy(Change::Apply(policy))),
        2 => (namespace_name(), teams).prop_map(|(name, labels)| namespace(name, labels)),
        1 => pod_name().prop_map(|pod| Update::Pod(Change::Delete(name(&pod)))),
        1 => pod().prop_map(|pod| Update::Endpoint(Change::Delete(endpoint_of(&pod).attachment))),
        1 => (namespace_name(), select(vec!["p", "q"]))
            .prop_map(|(namespace, policy)| Update::NetworkPolicy(Change::Delete(name(&format!("{namespace}/{policy}"))))),
        1 => namespace_name().prop_map(|name| Update::Namespace(Change::Delete(name.into()))),
    ]
}

/// A pod that is local: two updates that mostly come together.
fn local() -> impl Strategy<Value = Vec<Update>> {
    pod().prop_map(|pod| super::objects::local_pod(&pod).to_vec())
}

/// What the sources deliver before they are in sync.
pub(crate) fn first_lists() -> impl Strategy<Value = Vec<Update>> {
    let locals = vec(local(), 2..5).prop_map(|locals| locals.concat());
    (locals, vec(update(), 4..16)).prop_map(|(locals, updates)| [locals, updates].concat())
}

/// What happens then.
pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => update().prop_map(|update| Event::Update(Box::new(update))),
        1 => Just(Event::Tidy),
    ];
    vec(event, 1..16)
}
