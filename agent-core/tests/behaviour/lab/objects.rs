//! Short ways to write objects.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use agent_core::{
    model::{
        Family, ObjectName, Protocol,
        endpoint::{AttachmentId, Endpoint},
        node::Node,
        policy::{
            IpBlock, NamespaceMatch, NetworkPolicy, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports,
        },
        selector::{LabelSelector, Labels, Operator, Requirement},
        service::{EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy},
        workload::{ContainerPort, Namespace, Pod},
    },
    update::{Change, Update},
};

/// `namespace/name`.
pub(crate) fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The IPv6 address that goes with an IPv4 address: the same number in `fd00::/96`.
pub(crate) fn twin(v4: IpAddr) -> IpAddr {
    let IpAddr::V4(v4) = v4 else { panic!("{v4} is not IPv4") };
    Ipv6Addr::from_bits(0xfd00_u128 << 112 | u128::from(v4.to_bits())).into()
}

/// `key=value key=value`.
pub(crate) fn labels(text: &str) -> Labels {
    let label = |text: &str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.split_whitespace().map(|text| label(text).expect("key=value")).collect()
}

/// `key=value key=value`; empty: everything.
pub(crate) fn selecting(text: &str) -> LabelSelector {
    let requirement = |(key, value)| Requirement { key, operator: Operator::In([value].into()) };
    LabelSelector { requirements: labels(text).into_iter().map(requirement).collect() }
}

pub(crate) fn require(key: &str, operator: Operator) -> LabelSelector {
    LabelSelector { requirements: [Requirement { key: key.into(), operator }].into() }
}

pub(crate) fn namespace(name: &str, more: &str) -> Update {
    let mut labels = labels(more);
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Update::Namespace(Change::Apply(Namespace { name: name.into(), labels }))
}

/// A pod with an IPv4 address and its twin. The uid tells it apart from another pod of its name and address.
pub(crate) fn a_pod(pod: &str, addr: &str, labels_text: &str) -> Pod {
    Pod {
        name: name(pod),
        uid: format!("{pod}-{addr}"),
        static_uids: Vec::new(),
        labels: labels(labels_text),
        node_name: None,
        host_network: false,
        ips: vec![ip(addr), twin(ip(addr))],
        completed: false,
        ports: Vec::new(),
    }
}

pub(crate) fn container_port(name: &str, protocol: Protocol, port: u16) -> ContainerPort {
    ContainerPort { name: name.into(), protocol, port }
}

pub(crate) fn pod(pod: Pod) -> Update {
    Update::Pod(Change::Apply(pod))
}

/// The interface of a pod on this node.
pub(crate) fn endpoint_of(pod: &Pod) -> Endpoint {
    let Some(IpAddr::V4(first)) = pod.ips.first() else { panic!("{} has no IPv4 address", pod.name) };
    let [.., third, fourth] = first.octets();
    Endpoint {
        attachment: AttachmentId { container_id: pod.uid.clone(), ifname: "eth0".into() },
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        ips: pod.ips.clone(),
        host_ifname: format!("mr{third}-{fourth}"),
        host_ifindex: 100 + u32::from(fourth),
        host_mac: [2, 0, 0, 0, third, fourth],
        pod_mac: [2, 0, 0, 1, third, fourth],
        netns: None,
    }
}

/// A pod with its interface on this node.
pub(crate) fn local_pod(pod: &Pod) -> [Update; 2] {
    [Update::Pod(Change::Apply(pod.clone())), Update::Endpoint(Change::Apply(endpoint_of(pod)))]
}

/// A policy that isolates in no direction yet.
pub(crate) fn a_policy(policy: &str, pods: LabelSelector) -> NetworkPolicy {
    NetworkPolicy { name: name(policy), pod_selector: pods, ingress: None, egress: None }
}

pub(crate) fn policy(policy: NetworkPolicy) -> Update {
    Update::NetworkPolicy(Change::Apply(policy))
}

/// A policy with ingress rules only.
pub(crate) fn ingress(policy_name: &str, pods: LabelSelector, rules: Vec<PolicyRule>) -> Update {
    policy(NetworkPolicy { ingress: Some(rules), ..a_policy(policy_name, pods) })
}

/// A policy with egress rules only.
pub(crate) fn egress(policy_name: &str, pods: LabelSelector, rules: Vec<PolicyRule>) -> Update {
    policy(NetworkPolicy { egress: Some(rules), ..a_policy(policy_name, pods) })
}

/// A rule for anything.
pub(crate) fn anything() -> PolicyRule {
    PolicyRule::default()
}

/// A rule for every port of some peers.
pub(crate) fn peers(peers: Vec<Peer>) -> PolicyRule {
    PolicyRule { peers: Peers::OneOf(peers), ports: Ports::Any }
}

/// A rule, limited to some ports.
pub(crate) fn on(rule: PolicyRule, ports: Vec<PolicyPort>) -> PolicyRule {
    PolicyRule { ports: Ports::OneOf(ports), ..rule }
}

/// Pods of one namespace.
pub(crate) fn pods_of(namespace: &str, pods: LabelSelector) -> Peer {
    Peer::Pods { namespaces: NamespaceMatch::Named(namespace.into()), pods }
}

/// Pods of the namespaces that a selector matches.
pub(crate) fn pods_where(namespaces: LabelSelector, pods: LabelSelector) -> Peer {
    Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|except| except.parse().expect("a prefix")).collect();
    Peer::IpBlock(IpBlock { cidr: cidr.parse().expect("a prefix"), except })
}

pub(crate) fn port(protocol: Protocol, port: PortMatch) -> PolicyPort {
    PolicyPort { protocol, port }
}

pub(crate) fn tcp(number: u16) -> PolicyPort {
    port(Protocol::Tcp, PortMatch::Range { first: number, last: number })
}

pub(crate) fn named(name: &str) -> PolicyPort {
    port(Protocol::Tcp, PortMatch::Named(name.into()))
}

/// A Service with one unnamed TCP port, on an IPv4 cluster IP and its twin.
pub(crate) fn a_service(service: &str, addr: &str, port: u16) -> Service {
    Service {
        name: name(service),
        cluster_ips: vec![ip(addr), twin(ip(addr))],
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port }],
        internal_traffic_policy: TrafficPolicy::Cluster,
    }
}

pub(crate) fn service(service: Service) -> Update {
    Update::Service(Change::Apply(service))
}

/// A slice of a Service with one unnamed TCP port.
pub(crate) fn a_slice(slice: &str, service: &str, port: u16, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    EndpointSlice {
        name: name(slice),
        service: service.into(),
        family,
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: Some(port) }],
        endpoints,
    }
}

pub(crate) fn slice(slice: EndpointSlice) -> Update {
    Update::EndpointSlice(Change::Apply(slice))
}

/// A ready endpoint on another node.
pub(crate) fn ready(addr: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: ip(addr),
        ready: true,
        serving: true,
        terminating: false,
        node_name: Some("node-2".into()),
    }
}

pub(crate) fn node(node: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Update {
    Update::Node(Change::Apply(Node {
        name: node.into(),
        addresses: addresses.iter().map(|addr| ip(addr)).collect(),
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().expect("a prefix")).collect(),
        services: None,
        is_leaving: false,
    }))
}

/// Labels as a map, from pairs.
pub(crate) fn label_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
