//! Which network namespaces are those of pods.
use std::num::NonZeroU64;

use agent_core::{
    entry::netns_to_bytes,
    model::endpoint::Endpoint,
    update::{Change, Update},
};
use dataplane_common::{maps::MapId, socket::netns};

use crate::lab::{
    Lab,
    objects::{a_pod, endpoint_of, pod},
};

fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

fn endpoint(name: &str, addr: &str, ifname: &str, netns: Option<NonZeroU64>) -> Endpoint {
    let mut endpoint = endpoint_of(&a_pod(name, addr, ""));
    endpoint.attachment.ifname = ifname.into();
    Endpoint { netns, ..endpoint }
}

fn known(lab: &Lab) -> Vec<Vec<u8>> {
    let entries = lab.maps.entries(MapId::NETNS);
    let known = entries.inspect(|(_, value)| assert_eq!(*value, netns::POD.to_ne_bytes()));
    known.map(|(key, _)| key.to_vec()).collect()
}

#[test]
fn a_namespace_is_known_while_an_interface_is_in_it() {
    let mut lab = Lab::with([pod(a_pod("shop/web", "10.1.0.1", ""))]);
    let first = endpoint("shop/web", "10.1.0.1", "eth0", Some(number(7)));
    let second = endpoint("shop/web", "10.1.0.2", "net1", Some(number(7)));
    lab.apply(Update::Endpoint(Change::Apply(first.clone())));
    lab.apply(Update::Endpoint(Change::Apply(second.clone())));
    assert_eq!(known(&lab), [netns_to_bytes(number(7))]);
    lab.apply(Update::Endpoint(Change::Delete(first.attachment)));
    assert_eq!(known(&lab), [netns_to_bytes(number(7))], "the second is still there");
    lab.apply(Update::Endpoint(Change::Delete(second.attachment)));
    assert!(known(&lab).is_empty());
}

#[test]
fn a_namespace_is_known_before_its_pod_is_let_through() {
    let mut lab = Lab::with([pod(a_pod("shop/web", "10.1.0.1", ""))]);
    let endpoint = endpoint("shop/web", "10.1.0.1", "eth0", Some(number(7)));
    let plan = lab.apply(Update::Endpoint(Change::Apply(endpoint)));
    let place = |map| plan.steps.iter().position(|step| step.map == map).unwrap();
    assert!(place(MapId::NETNS) < place(MapId::ENDPOINTS_V4), "{plan:?}");
}

#[test]
fn an_agent_that_starts_keeps_the_namespaces_of_its_pods_and_forgets_others() {
    let lives = || {
        let endpoint = endpoint("shop/web", "10.1.0.1", "eth0", Some(number(7)));
        [pod(a_pod("shop/web", "10.1.0.1", "")), Update::Endpoint(Change::Apply(endpoint))]
    };
    let mut lab = Lab::with(lives());
    lab.maps.upsert(MapId::NETNS, &netns_to_bytes(number(9)), &netns::POD.to_ne_bytes());
    lab.maps.upsert(MapId::NETNS, &[0; 8], &netns::POD.to_ne_bytes());
    let lab = Lab::on(lab.maps, lives());
    assert_eq!(known(&lab), [netns_to_bytes(number(7))]);
}
