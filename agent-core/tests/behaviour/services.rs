//! Services: services.md §2 to §4, the rows of cluster IPs.
use std::{collections::BTreeSet, net::SocketAddr};

use agent_core::{
    dump::dump,
    entry::Backend,
    model::{
        Protocol,
        service::{EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TrafficPolicy},
    },
    oracle::{self, Choice},
    update::{Change, Update},
};
use dataplane_common::{maps::MapId, net::proto};

use crate::lab::{
    Lab, NODE,
    objects::{a_service, a_slice, ip, name, ready, service, slice, twin},
};

const VIP: &str = "10.96.0.1";

fn endpoint(addr: &str, conditions: &str) -> SliceEndpoint {
    let has = |condition| conditions.split(' ').any(|word| word == condition);
    SliceEndpoint {
        address: ip(addr),
        ready: has("ready"),
        serving: has("ready") || has("serving"),
        terminating: has("terminating"),
        node_name: Some(if has("here") { NODE } else { "node-2" }.into()),
    }
}

fn one_of(backends: &[&str]) -> Choice {
    let backend = |text: &&str| {
        let addr: std::net::SocketAddr = text.parse().expect("address:port");
        Backend { addr: addr.ip(), port: addr.port() }
    };
    Choice::OneOf(backends.iter().map(backend).collect())
}

/// What a new TCP flow to port 80 of the cluster IP gets: by the maps, which must agree with the reference.
fn choice(lab: &Lab) -> Choice {
    choice_at(lab, 80, proto::TCP)
}

fn choice_at(lab: &Lab, port: u16, protocol: u8) -> Choice {
    let found = lab.maps.choice(ip(VIP), port, protocol);
    assert_eq!(found, oracle::resolve(&lab.state, NODE, ip(VIP), port, protocol), "maps and reference agree");
    let keepers = lab.maps.keepers(ip(VIP), port, protocol);
    if protocol == proto::TCP {
        let chosen = if let Choice::OneOf(backends) = &found { backends.clone() } else { BTreeSet::new() };
        assert_eq!(keepers, chosen, "a connection goes on by itself");
    } else {
        assert_eq!(keepers, oracle::keepers(&lab.state, ip(VIP), port, protocol));
    }
    found
}

fn lab(policy: TrafficPolicy, endpoints: Vec<SliceEndpoint>) -> Lab {
    let mut web = a_service("default/web", VIP, 80);
    web.internal_traffic_policy = policy;
    Lab::with([service(web), slice(a_slice("default/web-1", "web", 8080, endpoints))])
}

#[test]
fn the_truth_table_of_backends() {
    use TrafficPolicy::{Cluster, Local};
    type Row<'a> = (TrafficPolicy, &'a [(&'a str, &'a str)], Choice);
    let rows: [Row<'_>; 12] = [
        (Cluster, &[], Choice::Reject),
        (Cluster, &[("10.1.0.1", "ready"), ("10.1.0.2", "")], one_of(&["10.1.0.1:8080"])),
        (Cluster, &[("10.1.0.1", "ready"), ("10.1.0.2", "serving terminating")], one_of(&["10.1.0.1:8080"])),
        (Cluster, &[("10.1.0.1", ""), ("10.1.0.2", "serving terminating")], one_of(&["10.1.0.2:8080"])),
        (Cluster, &[("10.1.0.1", "terminating")], Choice::Reject),
        (Cluster, &[("10.1.0.1", "serving")], Choice::Reject),
        (Local, &[("10.1.0.1", "ready here"), ("10.1.0.2", "ready")], one_of(&["10.1.0.1:8080"])),
        (Local, &[("10.1.0.2", "ready")], Choice::Drop),
        (Local, &[("10.1.0.2", "serving terminating")], Choice::Drop),
        (Local, &[("10.1.0.2", "terminating")], Choice::Reject),
        (Local, &[], Choice::Reject),
        (
            Local,
            &[("10.1.0.1", "serving terminating here"), ("10.1.0.2", "ready")],
            one_of(&["10.1.0.1:8080"]),
        ),
    ];
    for (policy, endpoints, expected) in rows {
        let lab =
            lab(policy, endpoints.iter().map(|(addr, conditions)| endpoint(addr, conditions)).collect());
        assert_eq!(choice(&lab), expected, "{policy:?} {endpoints:?}");
    }
}

#[test]
fn what_serves_keeps_its_flows_whoever_gets_the_new_ones() {
    use TrafficPolicy::{Cluster, Local};
    type Row<'a> = (TrafficPolicy, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: [Row<'_>; 7] = [
        (Cluster, &[("10.1.0.1", "ready"), ("10.1.0.2", "serving terminating")], &["10.1.0.2:53"]),
        (Cluster, &[("10.1.0.1", "ready"), ("10.1.0.2", "terminating")], &[]),
        (Cluster, &[("10.1.0.1", "ready"), ("10.1.0.2", "")], &[]),
        (Cluster, &[("10.1.0.1", "terminating"), ("10.1.0.2", "serving terminating")], &[]),
        (Local, &[("10.1.0.1", "ready here"), ("10.1.0.2", "ready")], &["10.1.0.2:53"]),
        (Local, &[("10.1.0.3", "ready"), ("10.1.0.2", "ready")], &["10.1.0.2:53", "10.1.0.3:53"]),
        (Local, &[("10.1.0.1", "serving terminating here"), ("10.1.0.2", "serving")], &["10.1.0.2:53"]),
    ];
    for (policy, endpoints, kept) in rows {
        let endpoints = endpoints.iter().map(|(addr, conditions)| endpoint(addr, conditions)).collect();
        let mut dns = a_service("default/web", VIP, 53);
        dns.internal_traffic_policy = policy;
        let mut all = a_slice("default/web-1", "web", 53, endpoints);
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            dns.ports[0].protocol = protocol;
            all.ports[0].protocol = protocol;
            let lab = Lab::with([service(dns.clone()), slice(all.clone())]);
            let chosen = choice_at(&lab, 53, protocol.number());
            let chosen = if let Choice::OneOf(backends) = chosen { backends } else { BTreeSet::new() };
            let found: BTreeSet<_> = lab
                .maps
                .keepers(ip(VIP), 53, protocol.number())
                .difference(&chosen)
                .map(|backend| SocketAddr::new(backend.addr, backend.port).to_string())
                .collect();
            let expected = if protocol == Protocol::Tcp { &[][..] } else { kept };
            assert_eq!(found, expected.iter().map(ToString::to_string).collect(), "{policy:?} {protocol:?}");
        }
    }
}

#[test]
fn a_range_is_sorted_in_both_parts_and_only_what_changed_is_written() {
    let mut dns = a_service("default/web", VIP, 53);
    dns.ports[0].protocol = Protocol::Udp;
    let of = |leaving: &dyn Fn(u8) -> bool| {
        let conditions = |n| if leaving(n) { "serving terminating" } else { "ready" };
        let endpoints = (1..=9).rev().map(|n| endpoint(&format!("10.1.0.{n}"), conditions(n))).collect();
        let mut slice = a_slice("default/web-1", "web", 53, endpoints);
        slice.ports[0].protocol = Protocol::Udp;
        slice
    };
    let mut lab = Lab::with([service(dns), slice(of(&|_| false))]);
    lab.apply(slice(of(&|n| n % 2 == 0)));
    let text = |map| dump(map, lab.maps.entries(map));
    let line = text(MapId::FRONTENDS_V4);
    assert!(line.contains("backends 9..14 keeps 14..18"), "{line}");
    let slots = text(MapId::BACKENDS_V4);
    let found: Vec<_> = slots.lines().skip(9).filter_map(|line| line.split(' ').next_back()).collect();
    let expected = [1, 3, 5, 7, 9, 2, 4, 6, 8].map(|n| format!("10.1.0.{n}:53"));
    assert_eq!(found, expected);
    assert_eq!(lab.apply(slice(of(&|n| n % 2 == 0))).steps, []);
}

#[test]
fn a_backend_in_two_slices_counts_once_and_the_living_copy_wins() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![endpoint("10.1.0.1", "serving terminating")]);
    for second in ["ready", "ready", "serving terminating"] {
        lab.apply(slice(a_slice("default/web-2", "web", 8080, vec![endpoint("10.1.0.1", second)])));
        assert_eq!(choice(&lab), one_of(&["10.1.0.1:8080"]), "{second}");
        assert_eq!(lab.problem_texts(), [""; 0]);
    }
    lab.apply(slice(a_slice(
        "default/web-2",
        "web",
        8080,
        vec![endpoint("10.1.0.1", "ready"), ready("10.1.0.2")],
    )));
    assert_eq!(choice(&lab), one_of(&["10.1.0.1:8080", "10.1.0.2:8080"]));
}

#[test]
fn an_endpoint_that_moves_between_slices_never_disappears() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1")]);
    lab.apply(slice(a_slice("default/web-2", "web", 8080, vec![ready("10.1.0.1")])));
    let writes = lab.apply(slice(a_slice("default/web-1", "web", 8080, vec![]))).upserts();
    assert_eq!((choice(&lab), writes), (one_of(&["10.1.0.1:8080"]), 0));
}

#[test]
fn ports_match_by_name_and_protocol_and_the_slice_gives_the_number() {
    let mut dns = a_service("default/web", VIP, 53);
    let port = |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port };
    dns.ports =
        vec![port("udp", Protocol::Udp, 53), port("tcp", Protocol::Tcp, 53), port("web", Protocol::Tcp, 80)];
    let mut one = a_slice("default/web-1", "web", 0, vec![ready("10.1.0.1")]);
    let slice_port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port: Some(port) };
    one.ports = vec![slice_port("udp", Protocol::Udp, 5353), slice_port("web", Protocol::Tcp, 8080)];
    let mut other = a_slice("default/web-2", "web", 0, vec![ready("10.1.0.1")]);
    other.ports = vec![slice_port("web", Protocol::Tcp, 9090), slice_port("tcp", Protocol::Udp, 1)];
    let mut lab = Lab::with([service(dns.clone()), slice(one), slice(other)]);
    assert_eq!(choice_at(&lab, 53, proto::UDP), one_of(&["10.1.0.1:5353"]));
    assert_eq!(choice_at(&lab, 53, proto::TCP), Choice::Reject);
    assert_eq!(choice_at(&lab, 80, proto::TCP), one_of(&["10.1.0.1:8080", "10.1.0.1:9090"]));
    assert_eq!(choice_at(&lab, 53, proto::SCTP), Choice::NoSuchPort);
    dns.ports.remove(1);
    lab.apply(service(dns));
    assert_eq!(choice_at(&lab, 53, proto::TCP), Choice::NoSuchPort);
    assert_eq!(choice_at(&lab, 53, proto::UDP), one_of(&["10.1.0.1:5353"]));
}

#[test]
fn a_slice_port_without_a_number_is_all_ports_so_that_the_services_own_stays() {
    let port = |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port };
    let ports = vec![port("web", 80), port("other", 90)];
    let web = Service { ports, ..a_service("default/web", VIP, 80) };
    let mut any = a_slice("default/web-1", "web", 0, vec![ready("10.1.0.1")]);
    any.ports = vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: None }];
    let mut lab = Lab::with([service(web), slice(any)]);
    assert_eq!(choice_at(&lab, 80, proto::TCP), one_of(&["10.1.0.1:80"]));
    assert_eq!(choice_at(&lab, 90, proto::TCP), Choice::Reject, "another name is another port");
    let v6 = a_slice("default/web-6", "web", 0, vec![ready("fd00::1")]);
    let all = SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: None };
    lab.apply(slice(EndpointSlice { ports: vec![all], ..v6 }));
    assert_eq!(lab.maps.choice(twin(ip(VIP)), 80, proto::TCP), one_of(&["[fd00::1]:80"]));
}

#[test]
fn the_families_are_independent() {
    let lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1")]);
    assert_eq!(lab.maps.choice(twin(ip(VIP)), 80, proto::TCP), Choice::Reject);
    let v6 = slice(a_slice("default/web-6", "web", 8080, vec![ready("fd00::1")]));
    let mut lab = lab;
    lab.apply(v6);
    assert_eq!(lab.maps.choice(twin(ip(VIP)), 80, proto::TCP), one_of(&["[fd00::1]:8080"]));
    assert_eq!(choice(&lab), one_of(&["10.1.0.1:8080"]));
}

#[test]
fn an_endpoint_of_the_wrong_family_is_ignored() {
    let lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1"), ready("fd00::1")]);
    assert_eq!(choice(&lab), one_of(&["10.1.0.1:8080"]));
}

#[test]
fn addresses_that_lead_nowhere_are_refused_by_name() {
    for addr in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"] {
        let lab = lab(TrafficPolicy::Cluster, vec![ready(addr), ready("10.1.0.1")]);
        assert_eq!(choice(&lab), one_of(&["10.1.0.1:8080"]));
        let problems = lab.problem_texts();
        assert!(
            problems
                .iter()
                .any(|text| text.starts_with("EndpointSlice default/web-1: ") && text.contains(addr)),
            "{problems:?}"
        );
    }
    for addr in ["::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1"] {
        let lab = lab(TrafficPolicy::Cluster, vec![ready(addr)]);
        assert_eq!(lab.maps.choice(twin(ip(VIP)), 80, proto::TCP), Choice::Reject, "{addr}");
        assert_eq!(lab.problem_texts().len(), 1, "{addr}");
    }
}

#[test]
fn a_problem_goes_with_its_cause() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("127.0.0.1")]);
    assert_eq!(lab.problem_texts().len(), 1);
    lab.apply(slice(a_slice("default/web-1", "web", 8080, vec![ready("10.1.0.1")])));
    assert_eq!(lab.problem_texts(), [""; 0]);
}

#[test]
fn of_two_services_with_one_frontend_the_lowest_name_wins() {
    let claim = |service_name: &str| {
        let slice_name = format!("{service_name}-1");
        let (_, short) = service_name.split_once('/').unwrap();
        let port = if short == "a" { 1 } else { 2 };
        [
            service(a_service(service_name, VIP, 80)),
            slice(a_slice(&slice_name, short, port, vec![ready("10.1.0.1")])),
        ]
    };
    let updates: Vec<Update> = ["default/b", "default/a"].into_iter().flat_map(claim).collect();
    for order in [updates.clone(), updates.into_iter().rev().collect()] {
        let mut lab = Lab::with(order);
        assert_eq!(choice(&lab), one_of(&["10.1.0.1:1"]));
        let problems = lab.problem_texts();
        assert!(
            problems
                .iter()
                .all(|text| text.contains("Service default/b") && text.contains("Service default/a"))
        );
        assert_eq!(problems.len(), 2, "one per family: {problems:?}");
        lab.apply(Update::Service(Change::Delete(name("default/a"))));
        assert_eq!(choice(&lab), one_of(&["10.1.0.1:2"]));
        assert_eq!(lab.problem_texts(), [""; 0]);
    }
}

#[test]
fn a_service_that_moves_to_another_address_leaves_nothing_behind() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1")]);
    lab.apply(service(a_service("default/web", "10.96.0.2", 80)));
    assert_eq!(choice(&lab), Choice::NotAService);
    assert_eq!(lab.maps.choice(ip("10.96.0.2"), 80, proto::TCP), one_of(&["10.1.0.1:8080"]));
    lab.apply(Update::Service(Change::Delete(name("default/web"))));
    assert_eq!(lab.maps.len(MapId::FRONTENDS_V4) + lab.maps.len(MapId::FRONTENDS_V6), 0);
}

#[test]
fn a_slice_that_changes_its_service_changes_both() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1")]);
    lab.apply(service(a_service("default/other", "10.96.0.2", 80)));
    lab.apply(slice(a_slice("default/web-1", "other", 8080, vec![ready("10.1.0.1")])));
    assert_eq!(choice(&lab), Choice::Reject);
    assert_eq!(lab.maps.choice(ip("10.96.0.2"), 80, proto::TCP), one_of(&["10.1.0.1:8080"]));
    lab.apply(Update::EndpointSlice(Change::Delete(name("default/web-1"))));
    assert_eq!(lab.maps.choice(ip("10.96.0.2"), 80, proto::TCP), Choice::Reject);
}

#[test]
fn a_change_of_backends_never_shows_a_mixture() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1"), ready("10.1.0.2")]);
    for round in 0..20_u8 {
        let before = choice(&lab);
        let backends = [3 + round, 4 + round].map(|n| ready(&format!("10.1.0.{n}")));
        let changed = lab.state.apply(slice(a_slice("default/web-1", "web", 8080, backends.to_vec())));
        let after = oracle::resolve(&lab.state, NODE, ip(VIP), 80, proto::TCP);
        let plan = lab.plan(&changed);
        lab.carry_out_watched(&plan, |maps| {
            let now = maps.choice(ip(VIP), 80, proto::TCP);
            assert!(now == before || now == after, "{now:?}");
        });
        lab.rest();
        assert_eq!(choice(&lab), after);
    }
    let slots: BTreeSet<_> = lab.maps.entries(MapId::BACKENDS_V4).map(|(key, _)| key.to_vec()).collect();
    assert!(slots.len() <= 8, "ranges are used again: {} slots", slots.len());
}

#[test]
fn an_unchanged_list_of_backends_keeps_its_range() {
    let mut lab = lab(TrafficPolicy::Cluster, vec![ready("10.1.0.1"), ready("10.1.0.2")]);
    let plan =
        lab.apply(slice(a_slice("default/web-1", "web", 8080, vec![ready("10.1.0.2"), ready("10.1.0.1")])));
    assert_eq!(plan.steps, []);
}
