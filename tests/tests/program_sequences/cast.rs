//! Who speaks: the ends of connections, and the cluster that they are in.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_core::{
    model::{
        Family, ObjectName, Protocol,
        endpoint::{AttachmentId, Endpoint},
        node::Node,
        selector::Labels,
        service::{EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy},
        workload::{Namespace, Pod},
    },
    update::{Change, Kind, Update},
};
use harness::program::{
    addresses::{LOCAL_PODS, node_ip, pod_ip, service_ip},
    fixture::{host_mac, pod_mac},
    random::NODE,
};

/// Pods of the node under test.
pub(crate) const LOCAL: u8 = 3;
/// Pods of the other node.
pub(crate) const REMOTE: u8 = 2;
pub(crate) const PODS: u8 = LOCAL + REMOTE;
pub(crate) const SERVICES: u8 = 2;
pub(crate) const NAMESPACE: &str = "x";

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Actor {
    /// The first [`LOCAL`] pods live on the node under test.
    Pod(u8),
    /// A process of the node under test.
    Node,
    Outside,
}

impl Actor {
    pub(crate) const ALL: [Self; 7] =
        [Self::Pod(0), Self::Pod(1), Self::Pod(2), Self::Pod(3), Self::Pod(4), Self::Node, Self::Outside];

    pub(crate) const fn is_pod(self) -> bool {
        matches!(self, Self::Pod(_))
    }

    pub(crate) const fn is_local(self) -> bool {
        matches!(self, Self::Pod(n) if n < LOCAL)
    }

    pub(crate) fn addr(self, family: Family) -> IpAddr {
        match (self, family) {
            (Self::Pod(n), _) if n < LOCAL => pod_ip(n, family),
            (Self::Pod(n), _) => pod_ip(LOCAL_PODS + n - LOCAL, family),
            (Self::Node, _) => node_ip(1, family),
            (Self::Outside, Family::V4) => Ipv4Addr::new(192, 0, 2, 9).into(),
            (Self::Outside, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
        }
    }

    pub(crate) fn at(addr: IpAddr) -> Option<Self> {
        Self::ALL.into_iter().find(|actor| actor.addr(Family::of(addr)) == addr)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(n) if *n < LOCAL => write!(f, "pod{n}"),
            Self::Pod(n) => write!(f, "remote{n}"),
            Self::Node => f.write_str("node"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

fn pod_name(n: u8) -> ObjectName {
    ObjectName::new(NAMESPACE, format!("p{n}"))
}

/// Labels are the pod's name and a role, which changes.
pub(crate) fn pod(n: u8, role: u8) -> Update {
    let actor = Actor::Pod(n);
    let labels: Labels = [("name", format!("p{n}")), ("role", format!("r{role}"))]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
    Update::Pod(Change::Apply(Pod {
        name: pod_name(n),
        uid: format!("uid-{n}"),
        labels,
        node_name: Some(if actor.is_local() { NODE } else { "n2" }.to_owned()),
        host_network: false,
        ips: [Family::V4, Family::V6].map(|family| actor.addr(family)).to_vec(),
        static_uids: Vec::new(),
        completed: false,
        ports: Vec::new(),
    }))
}

fn endpoint(n: u8, interface: u32) -> Update {
    Update::Endpoint(Change::Apply(Endpoint {
        attachment: AttachmentId { container_id: format!("c{n}"), ifname: "eth0".to_owned() },
        pod: pod_name(n),
        pod_uid: format!("uid-{n}"),
        ips: [Family::V4, Family::V6].map(|family| Actor::Pod(n).addr(family)).to_vec(),
        host_ifname: format!("h{n}"),
        host_ifindex: interface,
        host_mac: host_mac(n),
        pod_mac: pod_mac(n),
        netns: None,
    }))
}

fn node(n: u8) -> Update {
    let cidrs = if n == 1 { ["10.1.0.0/24", "fd00:1::/64"] } else { ["10.2.0.0/24", "fd00:2::/64"] };
    Update::Node(Change::Apply(Node {
        name: format!("n{n}"),
        addresses: [Family::V4, Family::V6].map(|family| node_ip(n, family)).to_vec(),
        pod_cidrs: cidrs.map(|cidr| cidr.parse().expect("a prefix")).to_vec(),
        services: None,
        is_leaving: false,
    }))
}

fn service_name(n: u8) -> ObjectName {
    ObjectName::new(NAMESPACE, format!("s{n}"))
}

/// Port of a service and of its backends, by protocol.
pub(crate) const TCP_PORTS: (u16, u16) = (80, 8080);
pub(crate) const UDP_PORTS: (u16, u16) = (53, 5353);

fn service(n: u8) -> Update {
    Update::Service(Change::Apply(Service {
        name: service_name(n),
        cluster_ips: [Family::V4, Family::V6].map(|family| service_ip(n, family)).to_vec(),
        ports: vec![
            ServicePort { name: "one".to_owned(), protocol: Protocol::Tcp, port: TCP_PORTS.0 },
            ServicePort { name: "two".to_owned(), protocol: Protocol::Udp, port: UDP_PORTS.0 },
        ],
        internal_traffic_policy: TrafficPolicy::Cluster,
    }))
}

/// The slices of a service whose backends are the pods in a set of bits.
pub(crate) fn slices(n: u8, pods: u8) -> [Update; 2] {
    [Family::V4, Family::V6].map(|family| {
        let endpoints = (0..PODS).filter(|pod| pods & (1 << pod) != 0).map(|pod| SliceEndpoint {
            address: Actor::Pod(pod).addr(family),
            ready: true,
            serving: true,
            terminating: false,
            node_name: None,
        });
        Update::EndpointSlice(Change::Apply(EndpointSlice {
            name: ObjectName::new(NAMESPACE, format!("slice-{n}-{family:?}")),
            service: service_name(n).name,
            family,
            ports: vec![
                SlicePort { name: "one".to_owned(), protocol: Protocol::Tcp, port: Some(TCP_PORTS.1) },
                SlicePort { name: "two".to_owned(), protocol: Protocol::Udp, port: Some(UDP_PORTS.1) },
            ],
            endpoints: endpoints.collect(),
        }))
    })
}

/// Everything that is there before a sequence starts: no policies.
pub(crate) fn cluster(interfaces: &[u32]) -> Vec<Update> {
    let mut updates = vec![node(1), node(2)];
    updates.push(Update::Namespace(Change::Apply(Namespace {
        name: NAMESPACE.to_owned(),
        labels: [("kubernetes.io/metadata.name".to_owned(), NAMESPACE.to_owned())].into(),
    })));
    updates.extend((0..PODS).map(|n| pod(n, n % 2)));
    updates.extend((0..LOCAL).map(|n| endpoint(n, interfaces[usize::from(n)])));
    for n in 0..SERVICES {
        updates.push(service(n));
        updates.extend(slices(n, 0b11111));
    }
    updates.extend(Kind::ALL.map(Update::Synced));
    updates
}
