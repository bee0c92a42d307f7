//! A change costs what changed, not what there is.
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use agent_core::model::service::SliceEndpoint;

use crate::lab::{
    Lab,
    objects::{
        a_pod, a_service, a_slice, ingress, local_pod, namespace, peers, pod, pods_of, pods_where, ready,
        selecting, service, slice,
    },
};

/// The median time from update to maps.
fn median(mut change: impl FnMut(u32)) -> Duration {
    let mut times: Vec<Duration> = (0..201)
        .map(|round| {
            let start = Instant::now();
            change(round);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn addr(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn backends(first: u32) -> Vec<SliceEndpoint> {
    (first..first + 4)
        .map(|number| SliceEndpoint { address: addr(number).into(), ..ready("10.0.0.1") })
        .collect()
}

/// One service's backends change, among so many services.
fn service_change(services: u32) -> Duration {
    let slice_of = |number: u32, first| {
        slice(a_slice(&format!("x/s{number}"), &format!("s{number}"), 80, backends(first)))
    };
    let updates = (0..services).flat_map(|number| {
        [
            service(a_service(&format!("x/s{number}"), &addr(0x60_0000 + number).to_string(), 80)),
            slice_of(number, number),
        ]
    });
    let mut lab = Lab::with(updates);
    median(|round| {
        let plan = lab.apply(slice_of(round % services, 7 + round));
        assert_eq!(plan.upserts(), 5, "four slots and a frontend");
        lab.rest();
    })
}

/// One pod changes its labels, among so many pods.
fn pod_change(pods: u32) -> Duration {
    let pod_of = |number: u32, app: u32| {
        pod(a_pod(&format!("x/p{number}"), &addr(number).to_string(), &format!("app=a{app}")))
    };
    let mut updates: Vec<_> = (0..pods).map(|number| pod_of(number, number % 8)).collect();
    updates.push(namespace("x", "team=1"));
    updates.extend(local_pod(&a_pod("y/server", "10.255.0.1", "app=server")));
    let rules = (0..8).map(|app| {
        peers(vec![
            pods_of("x", selecting(&format!("app=a{app}"))),
            pods_where(selecting("team=1"), selecting("app=none")),
        ])
    });
    updates.push(ingress("y/p", selecting(""), rules.collect()));
    let mut lab = Lab::with(updates);
    median(|round| {
        let plan = lab.apply(pod_of(round % pods, round % 8 + 1));
        assert!(plan.upserts() <= 2 + 2 + 8, "its classes, the epoch, at most one new class");
    })
}

#[test]
fn a_change_of_one_service_costs_the_same_among_many() {
    let (few, many) = (service_change(500), service_change(50_000));
    assert!(many < few * 10, "{few:?} among 500, {many:?} among 50,000");
}

#[test]
fn a_change_of_one_pod_costs_the_same_among_many() {
    let (few, many) = (pod_change(500), pod_change(50_000));
    assert!(many < few * 10, "{few:?} among 500, {many:?} among 50,000");
}
