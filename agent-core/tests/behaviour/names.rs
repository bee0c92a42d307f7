//! The catalog, and explanations made from it.
use agent_core::{
    catalog::{Catalog, catalog},
    explain::{Explanation, nearest},
    ids::{ClassId, SetId},
    model::Protocol,
    oracle::{self, Subject},
};
use dataplane_common::{maps::MapId, net::proto};

use crate::lab::{
    Lab, NODE,
    objects::{
        a_pod, a_service, block, container_port, egress, ingress, ip, local_pod, named, namespace, on, peers,
        pods_of, selecting, service, tcp,
    },
};

fn shop() -> Lab {
    let mut database = a_pod("shop/db", "10.1.0.1", "app=database");
    database.ports.push(container_port("sql", Protocol::Tcp, 5432));
    let api = a_pod("shop/api", "10.1.0.2", "app=my-api");
    let web = a_pod("shop/web", "10.1.0.3", "app=web");
    let updates = [
        namespace("shop", ""),
        service(a_service("shop/db", "10.96.0.1", 5432)),
        ingress(
            "shop/db",
            selecting("app=database"),
            vec![
                on(peers(vec![block("192.168.0.0/16", &[])]), vec![tcp(9187)]),
                on(peers(vec![pods_of("shop", selecting("app=my-api"))]), vec![named("sql")]),
            ],
        ),
        egress("shop/quiet", selecting("app=web"), vec![]),
        egress(
            "shop/api",
            selecting("app=my-api"),
            vec![on(
                peers(vec![pods_of("shop", selecting("app=database")), block("10.1.0.3/32", &[])]),
                vec![named("sql")],
            )],
        ),
    ];
    Lab::with(updates.into_iter().chain([database, api, web].iter().flat_map(local_pod)))
}

/// What the CLI does: the set and the classes from the maps, the rest from the catalog.
fn explain(
    lab: &Lab,
    catalog: &Catalog,
    subject: &str,
    is_egress: bool,
    peer: &str,
    port: u16,
) -> Explanation {
    let (_, value) = lab
        .maps
        .entries(MapId::ENDPOINTS_V4)
        .find(|(key, _)| agent_core::entry::addr_from_bytes(key) == Some(ip(subject)))
        .unwrap();
    let value = agent_core::entry::endpoint_value(value).unwrap();
    let set = SetId(if is_egress { value.egress_set } else { value.ingress_set });
    let classes: Vec<ClassId> = lab.maps.classes_of(ip(peer)).into_iter().map(ClassId).collect();
    nearest(catalog, set, &classes, proto::TCP, port).unwrap()
}

#[test]
fn a_denial_names_the_policies_and_the_nearest_rule() {
    let lab = shop();
    let catalog = catalog(&lab.state, NODE);
    let text = |peer, port| explain(&lab, &catalog, "10.1.0.1", false, peer, port).to_string();
    assert_eq!(
        text("10.1.0.2", 5432),
        "allowed by shop/db ingress rule 2 (from pods app=my-api of namespace shop, TCP \"sql\")"
    );
    assert_eq!(
        text("10.1.0.2", 80),
        "isolated by shop/db; nearest is shop/db ingress rule 2 (from pods app=my-api of namespace shop, TCP \"sql\"): \
         the port differs"
    );
    assert_eq!(
        text("10.1.0.3", 5432),
        "isolated by shop/db; nearest is shop/db ingress rule 2 (from pods app=my-api of namespace shop, TCP \"sql\"): \
         the peer differs"
    );
    assert_eq!(
        text("8.8.8.8", 1),
        "isolated by shop/db; nearest is shop/db ingress rule 1 (from 192.168.0.0/16, TCP 9187): \
         peer and port differ"
    );
    let silent = explain(&lab, &catalog, "10.1.0.3", true, "10.1.0.1", 5432);
    assert_eq!(silent.to_string(), "isolated by shop/quiet, which allow nothing");
}

#[test]
fn explanations_agree_with_the_reference() {
    let lab = shop();
    let catalog = catalog(&lab.state, NODE);
    for peer in ["10.1.0.1", "10.1.0.2", "10.1.0.3", "192.168.3.4", "8.8.8.8"] {
        for port in [80, 5432, 9187] {
            for (subject, is_egress) in [("10.1.0.1", false), ("10.1.0.2", true), ("10.1.0.3", true)] {
                let (from, to) = if is_egress { (subject, peer) } else { (peer, subject) };
                if from == to {
                    continue;
                }
                let [from, to] = [from, to].map(|addr| Subject::Address(ip(addr)));
                let judgement = oracle::judge(&lab.state, from, to, proto::TCP, port);
                let side = if is_egress { judgement.egress } else { judgement.ingress };
                let explained = explain(&lab, &catalog, subject, is_egress, peer, port);
                assert_eq!(
                    explained.is_allowed(),
                    side.outcome.is_allowed(),
                    "{from:?} > {to:?}:{port} {explained}"
                );
            }
        }
    }
}

#[test]
fn the_catalog_survives_json_and_names_every_id_in_the_maps() {
    let lab = shop();
    let catalog = catalog(&lab.state, NODE);
    let json = serde_json::to_string(&catalog).unwrap();
    assert_eq!(serde_json::from_str::<Catalog>(&json).unwrap(), catalog);
    for (key, value) in lab.maps.entries(MapId::POLICIES) {
        let key = agent_core::entry::PolicyEntry::from_bytes(key).unwrap();
        let rule = agent_core::entry::policy_value(value).unwrap().rule;
        assert!(catalog.sets.contains_key(&SetId(key.set)));
        assert!(catalog.rules.contains_key(&agent_core::ids::RuleId(rule)));
        assert!(catalog.classes.contains_key(&ClassId(key.class)));
    }
    assert_eq!(
        catalog.services.values().map(|info| info.service.to_string()).collect::<Vec<_>>(),
        ["shop/db"]
    );
    assert_eq!(catalog.pods[&ip("10.1.0.2")].to_string(), "shop/api");
    assert_eq!(catalog.endpoints[&ip("10.1.0.3")].pod.to_string(), "shop/web");
}
