//! `millrace why` on maps, with and without names.
use agent_core::ids::SetId;

use crate::{
    catalog::database_catalog,
    node::{DATABASE_SET, Node},
};

#[test]
fn why_names_the_rule_that_allows_and_exits_with_0() {
    let node = Node::with_database();
    let text = node.prints(&["why", "10.1.0.7 -> 10.1.0.9:5432"]);
    assert_eq!(
        text,
        "\
allowed: 10.1.0.7 -> 10.1.0.9:5432/tcp

10.1.0.7 -> 10.1.0.9:5432/tcp
  egress   no policy isolates the pod
  ingress  allowed by rule 00000100
"
    );
}

#[test]
fn why_names_the_nearest_rules_of_a_denied_flow_and_exits_with_3() {
    let node = Node::with_database();
    let ran = node.run(&["why", "10.1.0.7", "->", "10.1.0.9:81"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert_eq!(
        ran.stdout,
        "\
DENIED: 10.1.0.7 -> 10.1.0.9:81/tcp

10.1.0.7 -> 10.1.0.9:81/tcp
  egress   no policy isolates the pod
  ingress  DENIED, isolated by set 000000a1
           nearest: rule 00000100: the port differs
           nearest: rule 00000101: the peer differs
"
    );
    assert_eq!(node.run(&["why", "10.1.0.7 -> 10.1.0.9:5432/udp"]).code, Some(3));
}

#[test]
fn why_finds_the_ip_block_that_holds_an_address() {
    let node = Node::with_database();
    let why = |port: u16| node.run(&["why", &format!("192.0.2.77 -> 10.1.0.9:{port}")]);
    for (port, code) in [(79, 3), (80, 0), (81, 0), (82, 3)] {
        assert_eq!(why(port).code, Some(code), "port {port}");
    }
    assert!(why(80).stdout.contains("ingress  allowed by rule 00000101"));
    assert_eq!(node.run(&["why", "192.0.3.1 -> 10.1.0.9:80"]).code, Some(3));
}

#[test]
fn why_lets_the_own_node_reach_its_pods() {
    let node = Node::with_database();
    let text = node.prints(&["why", "host -> 10.1.0.9:9999"]);
    assert!(text.contains("ingress  not judged: a pod's own node always reaches it"), "{text}");
    assert_eq!(node.run(&["why", "127.0.0.1 -> 10.1.0.9:9999"]).code, Some(0));
}

#[test]
fn why_judges_every_backend_of_a_service() {
    let node = Node::with_database();
    let why = node.json(&["why", "10.1.0.7 to 10.96.0.1:5432"]);
    assert_eq!(why["verdict"], "allowed");
    let targets = why["flows"][0]["targets"].as_array().unwrap();
    let addresses: Vec<_> = targets.iter().map(|target| target["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["10.1.0.9:5432", "10.1.1.4:5432"]);
    assert_eq!(targets[0]["ingress"]["rule"], "rule 00000100");
    assert_eq!(targets[1]["ingress"]["outcome"], "not-judged");

    let ran = node.run(&["why", "192.0.2.1 to 10.96.0.1:5432", "-o", "json"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stdout.contains("\"verdict\": \"sometimes-denied\""), "{}", ran.stdout);

    let ran = node.run(&["why", "10.1.0.7 to 10.96.0.2:5432"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stdout.contains("id 00000052: no backend: the connection is rejected"), "{}", ran.stdout);
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let node = Node::with_database();
    let text = node.run(&["why", "10.1.0.9 -> 10.96.0.1:5432"]).stdout;
    assert!(text.contains("not judged: a pod always reaches itself"), "{text}");
}

#[test]
fn with_a_catalog_the_parties_and_the_rules_have_names() {
    let node = Node::with_database();
    node.write_catalog(&serde_json::to_vec(&database_catalog()).unwrap());
    assert_eq!(
        node.prints(&["why", "shop/web -> svc/shop/db:5432"]),
        "\
allowed: shop/web -> svc/shop/db:5432/tcp

10.1.0.7 (shop/web) -> 10.96.0.1:5432/tcp
  service  shop/db:pg: one of 2 backends at random
  backend  10.1.0.9:5432 (shop/db-0): allowed
    egress   no policy isolates the pod
    ingress  allowed by shop/db-access ingress rule 1 (from pods app=web of namespace shop, TCP 5432-5432)
  backend  10.1.1.4:5432 (shop/db-1): allowed
    egress   no policy isolates the pod
    ingress  not judged: the node of the destination judges it, if it is a pod
"
    );
    let denied = node.run(&["why", "shop/web -> shop/db-0:80"]);
    assert_eq!((denied.code, denied.stderr.as_str()), (Some(3), ""));
    assert!(denied.stdout.contains("  ingress  DENIED, isolated by shop/db-access\n"), "{}", denied.stdout);
    assert!(
        denied.stdout.contains(
            "nearest: shop/db-access ingress rule 1 (from pods app=web of namespace shop, TCP 5432-5432): the port differs\n"
        ),
        "{}",
        denied.stdout
    );
    assert!(
        node.prints(&["endpoint", "list"]).contains("shop/db-0  10.1.0.9   mr-db-0    shop/db-access  -\n")
    );
    assert_eq!(node.prints(&["ct", "list", "--pod", "shop/web"]), "no tracked flows\n");
}

#[test]
fn why_says_when_the_maps_and_the_policies_differ() {
    let node = Node::with_database();
    let mut catalog = database_catalog();
    catalog.sets.get_mut(&SetId(DATABASE_SET)).unwrap().rules.clear();
    node.write_catalog(&serde_json::to_vec(&catalog).unwrap());
    let text = node.prints(&["why", "shop/web -> shop/db-0:5432"]);
    assert!(text.contains("but the policies say otherwise"), "{text}");
}

#[test]
fn a_truncated_catalog_costs_the_names_and_one_warning() {
    let node = Node::with_database();
    let whole = serde_json::to_vec(&database_catalog()).unwrap();
    node.write_catalog(&whole[..whole.len() / 2]);
    let ran = node.run(&["why", "10.1.0.7 -> 10.1.0.9:5432"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("allowed by rule 00000100"), "{}", ran.stdout);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("catalog.json cannot be used: EOF while parsing"), "{}", ran.stderr);
    let complaint = node.run(&["why", "shop/web -> 10.1.0.9:5432"]).stderr;
    assert!(
        complaint.contains("no pod shop/web is known on this node (its names are missing)"),
        "{complaint}"
    );
}
