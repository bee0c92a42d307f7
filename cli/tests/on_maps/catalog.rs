//! The names that an agent would have written.
use agent_core::{
    catalog::{Catalog, ClassInfo, ClassKind, EndpointInfo, RuleInfo, ServiceInfo, SetInfo},
    ids::{ClassId, PeerId, RuleId, ServiceId, SetId},
    model::{
        ObjectName, Protocol,
        policy::{PolicyPort, PortMatch},
    },
};
use dataplane_common::policy::Direction;

use crate::node::{DATABASE_SERVICE, DATABASE_SET, OFFICE_CLASS, OFFICE_RULE, WEB_CLASS, WEB_RULE};

/// The names that the agent would write for [`Node::with_database`].
pub(crate) fn database_catalog() -> Catalog {
    let name = |name: &str| ObjectName::new("shop", name);
    let endpoint = |pod: &str, ip: &str| {
        let info =
            EndpointInfo { pod: name(pod), host_ifname: format!("mr-{pod}"), container_id: "c".to_owned() };
        (ip.parse().unwrap(), info)
    };
    let rule = |id: u32, index: usize, peer: u32, peers_text: &str, first: u16, last: u16| {
        let ports = vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Range { first, last } }];
        let info = RuleInfo {
            policy: name("db-access"),
            direction: Direction::Ingress,
            index,
            peers_text: peers_text.to_owned(),
            ports_text: format!("TCP {first}-{last}"),
            peers: Some(vec![PeerId(peer)]),
            ports: Some(ports),
        };
        (RuleId(id), info)
    };
    let class = |id: u32, kind: ClassKind, peer: u32| {
        (ClassId(id), ClassInfo { kind, peers: vec![PeerId(peer)], ports: Vec::new() })
    };
    let set = SetInfo {
        direction: Direction::Ingress,
        policies: vec![name("db-access")],
        rules: vec![RuleId(WEB_RULE), RuleId(OFFICE_RULE)],
        ports: Vec::new(),
    };
    let service =
        ServiceInfo { service: name("db"), port_name: "pg".to_owned(), protocol: Protocol::Tcp, port: 5432 };
    Catalog {
        node_name: "node-a".to_owned(),
        revision: 7,
        sets: [(SetId(DATABASE_SET), set)].into(),
        rules: [
            rule(WEB_RULE, 0, 1, "pods app=web of namespace shop", 5432, 5432),
            rule(OFFICE_RULE, 1, 2, "192.0.2.0/24", 80, 81),
        ]
        .into(),
        classes: [class(WEB_CLASS, ClassKind::Pods, 1), class(OFFICE_CLASS, ClassKind::Addresses, 2)].into(),
        services: [(ServiceId(DATABASE_SERVICE), service)].into(),
        endpoints: [endpoint("db-0", "10.1.0.9"), endpoint("web", "10.1.0.7")].into(),
        pods: [("10.1.1.4".parse().unwrap(), name("db-1"))].into(),
        ..Catalog::default()
    }
}
