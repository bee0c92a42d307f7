//! Random clusters and packets. The ranges are small on purpose: labels, ports and prefixes must meet often.
use std::net::IpAddr;

use agent_core::{
    model::{
        Family, ObjectName, Protocol,
        endpoint::{AttachmentId, Endpoint},
        policy::{
            IpBlock, NamespaceMatch, NetworkPolicy, Peer, Peers, PolicyPort, PolicyRule, PortMatch, Ports,
        },
        selector::{LabelSelector, Labels, Operator, Requirement},
        service::{EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy},
        small_set::SmallSet,
        workload::{ContainerPort, Namespace, Pod},
    },
    update::{Change, Kind, Update},
};
use ipnetwork::IpNetwork;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    addresses::{BOTH, LOCAL_PODS, node, node_ip, outside_ip, pod_ip, service_ip},
    fixture::{host_mac, pod_mac},
};

/// The node whose programs are tested.
pub const NODE: &str = "n1";

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["app", "tier", "zone"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 7] = [53, 80, 81, 82, 443, 8080, 65535];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const SERVICES: u8 = 5;
const POLICIES: usize = 7;

/// Makes objects from a seed.
pub struct Generator<'a> {
    pub rng: &'a mut StdRng,
    /// Host sides of the local pods' interfaces.
    pub interfaces: &'a [u32],
}

impl Generator<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        *items.choose(self.rng).expect("a list that is not empty")
    }

    fn some<T>(&mut self, up_to: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.rng.random_range(0..=up_to)).map(|_| make(self)).collect()
    }

    /// Everything that a cluster has at first.
    pub fn cluster(&mut self) -> Vec<Update> {
        let mut updates: Vec<Update> = Vec::new();
        for n in [1, 2] {
            updates.push(Update::Node(Change::Apply(node(n))));
        }
        for name in NAMESPACES {
            updates.push(self.namespace(name));
        }
        for n in 0..2 * LOCAL_PODS {
            updates.push(self.pod(n));
            if n < LOCAL_PODS {
                updates.push(self.endpoint(n));
            }
        }
        for n in 0..SERVICES {
            updates.push(self.service(n));
            updates.push(self.slice(n, Family::V4));
            updates.push(self.slice(n, Family::V6));
        }
        for n in 0..self.rng.random_range(0..=POLICIES) {
            updates.push(self.policy(n));
        }
        updates.extend(Kind::ALL.map(Update::Synced));
        updates
    }

    /// One change to a cluster that is there.
    pub fn change(&mut self) -> Update {
        match self.rng.random_range(0..10) {
            0 => {
                let name = self.one_of(&NAMESPACES);
                self.namespace(name)
            }
            1..=2 => {
                let n = self.rng.random_range(0..2 * LOCAL_PODS);
                self.pod(n)
            }
            3..=4 => {
                let (n, family) = (self.rng.random_range(0..SERVICES), self.one_of(&BOTH));
                self.slice(n, family)
            }
            5 => {
                let n = self.rng.random_range(0..SERVICES);
                self.service(n)
            }
            6 => {
                let n = self.rng.random_range(0..POLICIES);
                Update::NetworkPolicy(Change::Delete(policy_name(n)))
            }
            _ => {
                let n = self.rng.random_range(0..POLICIES);
                self.policy(n)
            }
        }
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for key in KEYS {
            if self.chance(60) {
                labels.insert(key.to_owned(), self.one_of(&VALUES).to_owned());
            }
        }
        labels
    }

    fn namespace(&mut self, name: &str) -> Update {
        let mut labels = self.labels();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        Update::Namespace(Change::Apply(Namespace { name: name.to_owned(), labels }))
    }

    fn pod(&mut self, n: u8) -> Update {
        let is_local = n < LOCAL_PODS;
        // Local pods have interfaces, so they are neither on the host's network nor gone.
        let host_network = !is_local && self.chance(10);
        let node = if is_local { 1 } else { 2 };
        let ips = BOTH.map(|family| if host_network { node_ip(node, family) } else { pod_ip(n, family) });
        Update::Pod(Change::Apply(Pod {
            name: pod_name(n),
            uid: format!("uid-{n}"),
            static_uids: Vec::new(),
            labels: self.labels(),
            node_name: Some(format!("n{node}")),
            host_network,
            ips: ips.to_vec(),
            completed: !is_local && self.chance(10),
            ports: self.some(3, |this| ContainerPort {
                name: this.one_of(&PORT_NAMES).to_owned(),
                protocol: this.one_of(&PROTOCOLS),
                port: this.one_of(&PORTS),
            }),
        }))
    }

    fn endpoint(&mut self, n: u8) -> Update {
        Update::Endpoint(Change::Apply(Endpoint {
            attachment: AttachmentId { container_id: format!("c{n}"), ifname: "eth0".to_owned() },
            pod: pod_name(n),
            pod_uid: format!("uid-{n}"),
            ips: BOTH.map(|family| pod_ip(n, family)).to_vec(),
            host_ifname: format!("h{n}"),
            host_ifindex: self.interfaces[usize::from(n)],
            host_mac: host_mac(n),
            pod_mac: pod_mac(n),
            netns: None,
        }))
    }

    fn service(&mut self, n: u8) -> Update {
        let name = service_name(n);
        if self.chance(10) {
            return Update::Service(Change::Delete(name));
        }
        let ports = [("one", Protocol::Tcp, 80), ("two", Protocol::Udp, 53), ("three", Protocol::Sctp, 443)];
        Update::Service(Change::Apply(Service {
            name,
            cluster_ips: BOTH.map(|family| service_ip(n, family)).to_vec(),
            ports: ports
                .map(|(name, protocol, port)| ServicePort { name: name.to_owned(), protocol, port })
                .to_vec(),
            internal_traffic_policy: if self.chance(20) {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            },
        }))
    }

    fn slice(&mut self, n: u8, family: Family) -> Update {
        // The checksum of SCTP covers its ports, which are therefore never rewritten.
        let ports = [
            ("one", Protocol::Tcp, self.chance(85).then(|| self.one_of(&PORTS))),
            ("two", Protocol::Udp, self.chance(85).then(|| self.one_of(&PORTS))),
            ("three", Protocol::Sctp, Some(443)),
        ];
        let endpoints = self.some(4, |this| {
            let pod = this.rng.random_range(0..2 * LOCAL_PODS);
            SliceEndpoint {
                address: pod_ip(pod, family),
                ready: this.chance(70),
                serving: this.chance(70),
                terminating: this.chance(30),
                node_name: Some(if pod < LOCAL_PODS { "n1" } else { "n2" }.to_owned()),
            }
        });
        Update::EndpointSlice(Change::Apply(EndpointSlice {
            name: ObjectName::new("x", format!("slice-{n}-{family:?}")),
            service: service_name(n).name,
            family,
            ports: ports
                .map(|(name, protocol, port)| SlicePort { name: name.to_owned(), protocol, port })
                .to_vec(),
            endpoints,
        }))
    }

    fn policy(&mut self, n: usize) -> Update {
        let direction = |this: &mut Self| this.chance(65).then(|| this.some(3, Self::rule));
        Update::NetworkPolicy(Change::Apply(NetworkPolicy {
            name: policy_name(n),
            pod_selector: self.selector(),
            ingress: direction(self),
            egress: direction(self),
        }))
    }

    fn rule(&mut self) -> PolicyRule {
        let peers = if self.chance(20) { Peers::Any } else { Peers::OneOf(self.some(3, Self::peer)) };
        let ports = if self.chance(30) { Ports::Any } else { Ports::OneOf(self.some(3, Self::port)) };
        PolicyRule { peers, ports }
    }

    fn peer(&mut self) -> Peer {
        if self.chance(40) {
            return Peer::IpBlock(self.block());
        }
        let namespaces = if self.chance(50) {
            NamespaceMatch::Named(self.one_of(&NAMESPACES).to_owned())
        } else {
            NamespaceMatch::Selected(self.selector())
        };
        Peer::Pods { namespaces, pods: self.selector() }
    }

    fn selector(&mut self) -> LabelSelector {
        let requirements = self.some(2, |this| {
            let values: SmallSet<String> = (0..2).map(|_| this.one_of(&VALUES).to_owned()).collect();
            let operator = match this.rng.random_range(0..5) {
                0..=1 => Operator::In(values),
                2 => Operator::NotIn(values),
                3 => Operator::Exists,
                _ => Operator::DoesNotExist,
            };
            Requirement { key: this.one_of(&KEYS).to_owned(), operator }
        });
        LabelSelector { requirements: requirements.into_iter().collect() }
    }

    fn block(&mut self) -> IpBlock {
        let (addr, longest) = match self.address() {
            addr @ IpAddr::V4(_) => (addr, 32),
            addr @ IpAddr::V6(_) => (addr, 128),
        };
        let lengths = [0, longest / 4, longest / 2, longest - 8, longest - 3, longest - 1, longest];
        let prefix = |length| {
            let network = IpNetwork::new(addr, length).expect("a length of the family");
            IpNetwork::new(network.network(), length).expect("a length of the family")
        };
        let cidr = prefix(self.one_of(&lengths));
        let longer: Vec<u8> = lengths.into_iter().filter(|length| *length > cidr.prefix()).collect();
        let except =
            if longer.is_empty() { Vec::new() } else { self.some(2, |this| prefix(this.one_of(&longer))) };
        IpBlock { cidr, except }
    }

    fn port(&mut self) -> PolicyPort {
        let port = match self.rng.random_range(0..10) {
            0..=1 => PortMatch::Any,
            2..=4 => PortMatch::Named(self.one_of(&PORT_NAMES).to_owned()),
            5..=6 => {
                let (a, b) = (self.one_of(&PORTS), self.one_of(&PORTS));
                PortMatch::Range { first: a.min(b), last: a.max(b) }
            }
            _ => {
                let port = self.one_of(&PORTS);
                PortMatch::Range { first: port, last: port }
            }
        };
        PolicyPort { protocol: self.one_of(&PROTOCOLS), port }
    }

    /// An address that means something in these clusters.
    pub fn address(&mut self) -> IpAddr {
        let family = self.one_of(&BOTH);
        self.address_of(family)
    }

    /// An address of a family that means something in these clusters, but is no service's.
    pub fn address_of(&mut self, family: Family) -> IpAddr {
        match self.rng.random_range(0..10) {
            0 => node_ip(self.one_of(&[1, 2]), family),
            1..=2 => outside_ip(self.rng.random_range(0..8), family),
            // A pod address that no pod has, too.
            _ => pod_ip(self.rng.random_range(0..=2 * LOCAL_PODS), family),
        }
    }

    /// A destination: as [`Self::address_of`], or a service.
    pub fn destination(&mut self, family: Family) -> IpAddr {
        if self.chance(30) {
            return service_ip(self.rng.random_range(0..=SERVICES), family);
        }
        self.address_of(family)
    }

    /// A destination port; services listen on some of them.
    pub fn destination_port(&mut self) -> u16 {
        self.one_of(&PORTS)
    }
}

fn pod_name(n: u8) -> ObjectName {
    ObjectName::new(NAMESPACES[usize::from(n) % NAMESPACES.len()], format!("p{n}"))
}

fn service_name(n: u8) -> ObjectName {
    ObjectName::new("x", format!("s{n}"))
}

fn policy_name(n: usize) -> ObjectName {
    ObjectName::new(NAMESPACES[n % NAMESPACES.len()], format!("np{n}"))
}
