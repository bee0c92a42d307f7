//! Maps that are full: what does not fit is refused whole, by name, and comes in when there is room.
use agent_core::{
    model::{Protocol, policy::PortMatch, service::SliceEndpoint},
    oracle::Choice,
    update::{Change, Update},
};
use dataplane_common::{
    maps::{BACKENDS_MAX, ENDPOINTS_MAX, MapId, ROUTES_MAX},
    net::proto,
    policy::Direction,
};

use crate::lab::{
    Lab,
    objects::{
        a_pod, a_service, a_slice, block, ingress, ip, local_pod, name, node, on, peers, port, ready,
        selecting, service, slice,
    },
};

#[test]
fn a_service_whose_backends_do_not_fit_is_refused_until_there_is_room() {
    const EACH: u32 = 65_000;
    let many = |count: u32| -> Vec<SliceEndpoint> {
        (0..count)
            .map(|number| SliceEndpoint {
                address: std::net::Ipv4Addr::from_bits(0x0a01_0000 + number).into(),
                ..ready("10.1.0.1")
            })
            .collect()
    };
    let vip = |number: u32| format!("10.96.0.{number}");
    let fitting = BACKENDS_MAX / EACH;
    let mut lab = Lab::with([]);
    for number in 0..=fitting {
        let short = format!("s{number}");
        lab.apply(service(a_service(&format!("default/{short}"), &vip(number), 80)));
        lab.apply(slice(a_slice(&format!("default/{short}"), &short, 80, many(EACH))));
    }
    let last = vip(fitting);
    assert_eq!(
        lab.maps.choice(ip(&last), 80, proto::TCP),
        Choice::Reject,
        "the frontend without backends stays"
    );
    let problems = lab.problem_texts();
    assert!(
        problems.len() == 1
            && problems[0].contains(&format!("Service default/s{fitting}"))
            && problems[0]
                .contains("BACKENDS_V4 has no 65000 entries in a row (4288 of 524288 are free, and 0 were"),
        "{problems:?}"
    );
    assert!(!lab.unplaced.is_empty());

    lab.apply(Update::Service(Change::Delete(name("default/s0"))));
    lab.rest();
    let retry = agent_core::state::Changed {
        frontends: [agent_core::entry::Frontend::cluster(ip(&last), 80, proto::TCP)].into(),
        ..Default::default()
    };
    lab.bring(&retry);
    assert!(
        matches!(lab.maps.choice(ip(&last), 80, proto::TCP), Choice::OneOf(backends) if backends.len() == EACH as usize)
    );
    assert_eq!(lab.problem_texts(), [""; 0]);
}

#[test]
fn a_policy_set_that_does_not_fit_denies_everything() {
    // 30 prefixes for each of 20,000 blocks: more than half a million entries.
    let wide = port(Protocol::Tcp, PortMatch::Range { first: 1, last: 65534 });
    let blocks = |count: u32| {
        (0..count)
            .map(|n| block(&format!("{}/32", std::net::Ipv4Addr::from_bits(0x0b00_0000 + n)), &[]))
            .collect()
    };
    let server = a_pod("x/server", "10.1.0.1", "app=a");
    let mut lab = Lab::with(local_pod(&server));
    let big = |count| ingress("x/big", selecting(""), vec![on(peers(blocks(count)), vec![wide.clone()])]);
    lab.apply(big(20_000));
    let judge =
        |lab: &Lab| lab.maps.judge(Direction::Ingress, ip("11.0.0.1"), ip("10.1.0.1"), proto::TCP, 80);
    assert_eq!(judge(&lab), Some(false));
    assert_eq!(lab.maps.len(MapId::POLICIES), 0, "never half a set");
    let problems = lab.problem_texts();
    assert!(
        problems.len() == 1 && problems[0].starts_with("NetworkPolicy x/big: denies everything"),
        "{problems:?}"
    );
    // Trying again changes nothing while it does not fit.
    let unplaced = lab.unplaced.clone();
    assert_eq!(lab.bring(&unplaced).steps, []);
    lab.apply(big(10));
    assert_eq!(judge(&lab), Some(true));
    lab.tidy();
    assert_eq!(lab.problem_texts(), [""; 0]);
}

#[test]
fn pods_and_routes_beyond_the_limit_are_reported() {
    let mut lab = Lab::with([]);
    for number in 0..=ENDPOINTS_MAX {
        let [.., high, low] = number.to_be_bytes();
        for update in local_pod(&a_pod(&format!("x/p{number}"), &format!("10.1.{high}.{low}"), "")) {
            lab.apply(update);
        }
    }
    assert_eq!(lab.maps.len(MapId::ENDPOINTS_V4), ENDPOINTS_MAX as usize);
    assert!(lab.problem_texts().iter().all(|text| text.starts_with("Pod x/p4096: has no network")));

    let cidrs: Vec<String> = (0..=ROUTES_MAX)
        .map(|number| format!("{}/24", std::net::Ipv4Addr::from_bits(0x0a00_0000 + (number << 8))))
        .collect();
    let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
    let mut lab = Lab::with([node("node-2", &["192.168.0.2"], &cidrs)]);
    assert_eq!(lab.maps.len(MapId::ROUTES_V4), ROUTES_MAX as usize);
    assert_eq!(lab.problem_texts().len(), 1);
    lab.apply(Update::Node(Change::Delete("node-2".into())));
    assert_eq!(lab.maps.len(MapId::ROUTES_V4), 0);
}
