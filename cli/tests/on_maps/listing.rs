//! What the listing commands show of maps.
use bpf_maps::Map;
use dataplane_common::{
    conntrack::{CtEntryV4, CtKeyV4, CtState, half, zone},
    maps::MapId,
    net::{AddrV4, Be16, proto},
    policy::{DeniedFlowKey, DeniedFlowValue, Direction},
    verdict::{DropReason, Hook, drop_slot},
};
use zerocopy::IntoBytes;

use crate::node::{DATABASE_SET, Node, WEB_RULE};

#[test]
fn status_shows_the_maps_while_the_agent_is_away() {
    let node = Node::with_database();
    let text = node.prints(&["status"]);
    assert!(text.starts_with("agent:     not running"), "{text}");
    let status = node.json(&["status"]);
    assert_eq!(status["agent"]["state"], "not-running");
    assert_eq!(status["problems"], serde_json::json!([]));
    let entries = |name: &str| {
        let maps = status["maps"].as_array().unwrap();
        maps.iter().find(|map| map["name"] == name).unwrap()["entries"].clone()
    };
    assert_eq!((entries("ENDPOINTS_V4"), entries("POLICIES")), (2.into(), 2.into()));
    assert_eq!((entries("BACKENDS_V4"), entries("BACKENDS_V6")), (2.into(), 0.into()));
}

#[test]
fn services_and_endpoints_and_policies_are_listed_by_their_numbers_without_a_catalog() {
    let node = Node::with_database();
    let services = node.prints(&["service", "list"]);
    assert!(
        services.contains("id 00000051  10.96.0.1:5432/tcp  10.1.0.9:5432, 10.1.1.4:5432\n"),
        "{services}"
    );
    assert!(services.contains("id 00000052  10.96.0.2:5432/tcp  none: rejected\n"), "{services}");
    let endpoints = node.json(&["endpoint", "list"]);
    assert_eq!(endpoints[0]["ingress"]["set_id"], DATABASE_SET);
    assert_eq!(endpoints[1]["egress"]["isolation"], "none");
    let policies = node.json(&["policy", "list"]);
    assert_eq!(policies["sets"][0]["direction"], "ingress");
    assert_eq!(policies["sets"][0]["rules"][1]["ports"][0], "tcp 80-81");
}

#[test]
fn drops_are_summed_over_the_cpus() {
    let node = Node::empty();
    let counters = Map::open_checked(&node.dir, MapId::COUNTERS).unwrap();
    let slot = drop_slot(Hook::ToPod, DropReason::PolicyIngress).to_ne_bytes();
    let cpus = counters.lookup_per_cpu(&slot).unwrap().unwrap().len() as u64;
    let values: Vec<u8> = (1..=cpus).flat_map(u64::to_ne_bytes).collect();
    counters.update(&slot, &values).unwrap();
    let mapped = |octets: [u8; 4]| std::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets();
    let key = DeniedFlowKey {
        source: mapped([10, 1, 0, 7]),
        destination: mapped([10, 1, 0, 9]),
        port: Be16::new(5432),
        proto: proto::TCP,
        direction: Direction::Ingress as u8,
        set: DATABASE_SET,
    };
    let value = DeniedFlowValue { last_seen: 0, packets: 12 };
    node.write(MapId::DENIED_FLOWS, key.as_bytes(), value.as_bytes());

    let drops = node.json(&["drops"]);
    assert_eq!(drops["drops"][0]["packets"], cpus * (cpus + 1) / 2);
    assert_eq!(
        (&drops["drops"][0]["hook"], &drops["drops"][0]["reason"]),
        (&"to-pod".into(), &"policy-ingress".into())
    );
    let denied = &drops["denied_flows"][0];
    assert_eq!((&denied["source"], &denied["destination"]), (&"10.1.0.7".into(), &"10.1.0.9".into()));
    assert_eq!((&denied["port"], &denied["packets"]), (&5432.into(), &12.into()));
    assert!(denied["last_seen_seconds"].as_u64().unwrap() > 0);
}

#[test]
fn tracked_flows_are_listed_and_filtered() {
    let node = Node::empty();
    let key = CtKeyV4 {
        low_addr: AddrV4::new([10, 1, 0, 7]),
        high_addr: AddrV4::new([10, 1, 0, 9]),
        low_port: Be16::new(5432),
        high_port: Be16::new(40_000),
        proto: proto::TCP,
        zone: zone::POD,
        reserved: [0; 2],
    };
    let state = CtState {
        tag: key.tag(),
        service_id: 0,
        last_seen: 0,
        epoch: 1,
        denied: 0,
        mid_stream: 0,
        half: half::PLAIN,
        origin_high: 1,
        egress_rule: 0,
        ingress_rule: WEB_RULE,
        from_host: 0,
        replied: 1,
        fin_original: 0,
        fin_reply: 0,
        closed: 0,
        reset: 0,
        backend_gone: 0,
        client_zone: 0,
    };
    let entry = CtEntryV4 {
        state,
        nat_source: AddrV4(0),
        nat_destination: AddrV4(0),
        nat_source_port: Be16::new(0),
        nat_destination_port: Be16::new(0),
        reserved: 0,
    };
    node.write(MapId::CT_EST_V4, key.as_bytes(), entry.as_bytes());
    let flows = node.json(&["conntrack", "list"]);
    assert_eq!(flows[0]["source"], "10.1.0.9:40000");
    assert_eq!(flows[0]["destination"], "10.1.0.7:5432");
    assert_eq!(flows[0]["state"], "established");
    assert_eq!(flows[0]["ingress_rule"], "rule 00000100");
    assert_eq!(node.json(&["ct", "list", "--addr", "10.1.0.9"]), flows);
    assert_eq!(node.prints(&["ct", "list", "--addr", "10.1.0.1"]), "no tracked flows\n");
    let denied = Direction::Ingress as u8;
    let state = CtState { denied, ingress_rule: DATABASE_SET, ..state };
    node.write(MapId::CT_EST_V4, key.as_bytes(), CtEntryV4 { state, ..entry }.as_bytes());
    let flows = node.json(&["conntrack", "list"]);
    assert_eq!((&flows[0]["state"], &flows[0]["denied"]), (&"denied".into(), &"policy-ingress".into()));
    assert_eq!(flows[0]["ingress_rule"], serde_json::Value::Null);
    let text = node.prints(&["conntrack", "list"]);
    assert!(text.contains("denied (policy-ingress)"), "{text}");
    assert!(text.contains(&format!("set {DATABASE_SET:08x}")), "{text}");
}

#[test]
fn a_drop_reason_is_explained_on_any_machine() {
    let node = Node::bare();
    assert!(node.prints(&["explain", "policy-egress"]).starts_with("policy-egress\n  No NetworkPolicy"));
}
