//! Routes to the pods of other nodes.
use std::net::IpAddr;

use agent_core::{
    entry::{Route, Way, prefix_from_bytes},
    update::{Change, Update},
};
use dataplane_common::maps::MapId;
use ipnetwork::IpNetwork;

use crate::lab::{
    Lab,
    objects::{a_service, ip, node, service},
};

fn routes(lab: &Lab) -> Vec<(String, IpAddr)> {
    let entries = [MapId::ROUTES_V4, MapId::ROUTES_V6].into_iter().flat_map(|map| lab.maps.entries(map));
    let routes = entries.filter_map(|(key, value)| {
        let route = Route::from_bytes(value).unwrap();
        let next_hop = route.way.next_hop()?;
        assert_eq!(route.ifindex, 2);
        Some((prefix_from_bytes(key).unwrap().to_string(), next_hop))
    });
    routes.collect()
}

fn other() -> Update {
    node("node-2", &["192.168.0.2", "fd01::2"], &["10.2.0.0/24", "fd00:2::/64"])
}

#[test]
fn another_node_is_reached_by_its_address_of_the_same_family() {
    let mut lab = Lab::with([node("node-1", &["192.168.0.1"], &["10.1.0.0/24"]), other()]);
    let expected = [("10.2.0.0/24".to_owned(), ip("192.168.0.2")), ("fd00:2::/64".to_owned(), ip("fd01::2"))];
    assert_eq!(routes(&lab), expected);
    lab.apply(node("node-2", &["192.168.0.3", "fd01::2"], &["10.3.0.0/24", "fd00:2::/64"]));
    assert_eq!(routes(&lab)[0], ("10.3.0.0/24".to_owned(), ip("192.168.0.3")));
    assert_eq!(routes(&lab).len(), 2);
    lab.apply(Update::Node(Change::Delete("node-2".into())));
    assert_eq!(routes(&lab), []);
}

#[test]
fn a_node_without_an_address_of_the_family_is_reported() {
    let lab = Lab::with([node("node-2", &["192.168.0.2"], &["10.2.0.0/24", "fd00:2::/64"])]);
    assert_eq!(routes(&lab).len(), 1);
    assert_eq!(lab.problem_texts().len(), 1);
    assert!(lab.problem_texts()[0].starts_with("Node node-2: "));
}

#[test]
fn a_pod_cidr_of_this_node_never_leads_elsewhere() {
    let mut lab = Lab::with([other(), node("node-1", &["192.168.0.1"], &["10.2.0.0/24"])]);
    assert_eq!(routes(&lab).len(), 1, "only the IPv6 route");
    assert_eq!(lab.problem_texts().len(), 1);
    lab.apply(node("node-1", &["192.168.0.1"], &["10.1.0.0/24"]));
    assert_eq!(routes(&lab).len(), 2);
    assert_eq!(lab.problem_texts(), [""; 0]);
}

#[test]
fn the_address_of_a_service_leads_nowhere() {
    let web = a_service("x/web", "10.96.0.1", 80);
    let addrs = web.cluster_ips.clone();
    let mut lab = Lab::with([service(web.clone())]);
    let ways = |lab: &Lab| -> Vec<(String, Way)> {
        let entries = [MapId::ROUTES_V4, MapId::ROUTES_V6].into_iter().flat_map(|map| lab.maps.entries(map));
        entries
            .map(|(key, value)| {
                (prefix_from_bytes(key).unwrap().to_string(), Route::from_bytes(value).unwrap().way)
            })
            .collect()
    };
    let services = addrs.into_iter().map(|addr| (IpNetwork::from(addr).to_string(), Way::Service));
    assert_eq!(ways(&lab), services.collect::<Vec<_>>());
    lab.apply(Update::Service(Change::Delete(web.name)));
    assert_eq!(ways(&lab), []);
}

#[test]
fn a_node_that_is_not_on_the_link_is_reached_as_the_kernel_says() {
    for way in [Way::Gateway(ip("192.168.0.254")), Way::Gateway(ip("fe80::1")), Way::Stack] {
        let mut lab = Lab::with([]);
        let cidr = "10.2.0.0/24".parse().unwrap();
        lab.config.detours.insert(cidr, way);
        lab.apply(other());
        let found: Vec<_> = lab
            .maps
            .entries(MapId::ROUTES_V4)
            .map(|(key, value)| (prefix_from_bytes(key).unwrap(), Route::from_bytes(value).unwrap()))
            .collect();
        assert_eq!(found, [(cidr, Route { ifindex: 2, way })]);
    }
}

#[test]
fn without_an_uplink_there_are_no_routes() {
    let mut lab = Lab::with([]);
    lab.config.uplink_v6 = None;
    lab.apply(other());
    assert_eq!(routes(&lab), [("10.2.0.0/24".to_owned(), ip("192.168.0.2"))]);
}
