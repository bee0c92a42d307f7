use agent::net::{
    Netlink,
    route::{NodeRoute, RouteReport, Scope},
    sysctl::Sysctls,
};
use agent_core::model::Family;
use std::path::Path;

use crate::namespace::{inside, ip};

const PEER_A: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const PEER_B: [&str; 2] = ["192.0.2.3", "2001:db8::3"];
const PODS: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];

fn uplink() {
    ip("link add uplink type veth peer name fabric");
    ip("link set uplink up");
    ip("link set fabric up");
    ip("addr add 192.0.2.1/24 dev uplink");
    ip("addr add 2001:db8::1/64 dev uplink nodad");
}

fn routes(via: [&str; 2]) -> Vec<NodeRoute> {
    let route = |(cidr, via): (&str, &str)| NodeRoute {
        destination: cidr.parse().unwrap(),
        via: Some(via.parse().unwrap()),
    };
    PODS.into_iter().zip(via).map(route).collect()
}

async fn sync(netlink: &Netlink, desired: &[NodeRoute], scope: &Scope) -> RouteReport {
    netlink.sync_node_routes(desired, scope).await.expect("listing the routes")
}

fn ours() -> String {
    ip("route show proto 202") + &ip("-6 route show proto 202")
}

#[test]
fn routes_to_other_nodes_follow_what_is_desired() {
    inside(|netlink| async move {
        uplink();
        let report = sync(&netlink, &routes(PEER_A), &Scope::All).await;
        assert_eq!((report.written, report.removed, report.errors.len()), (2, 0, 0), "{report:?}");
        assert!(
            ours().contains("10.1.0.0/24 via 192.0.2.2") && ours().contains("fd01::/64 via 2001:db8::2"),
            "{}",
            ours()
        );

        let report = sync(&netlink, &routes(PEER_A), &Scope::All).await;
        assert_eq!((report.written, report.removed), (0, 0), "what is right is not written again");

        let report = sync(&netlink, &routes(PEER_B), &Scope::All).await;
        assert_eq!((report.written, report.errors.len()), (2, 0), "{report:?}");
        assert!(!ours().contains("192.0.2.2") && ours().contains("via 192.0.2.3"), "{}", ours());
        assert!(!ours().contains("2001:db8::2 ") && ours().contains("via 2001:db8::3"), "{}", ours());

        let report = sync(&netlink, &[], &Scope::Destinations(Vec::new())).await;
        assert_eq!(report.removed, 0, "not every node is known");
        let report = sync(&netlink, &[], &Scope::All).await;
        assert_eq!((report.removed, report.errors.len()), (2, 0), "{report:?}");
        assert_eq!(ours(), "");
    });
}

#[test]
fn addresses_of_this_node_that_no_pod_has_are_unreachable() {
    inside(|netlink| async move {
        uplink();
        let own: Vec<_> = routes(PEER_A).into_iter().map(|route| NodeRoute { via: None, ..route }).collect();
        for (desired, expected) in [(&own, 2), (&own, 0), (&routes(PEER_A), 2), (&own, 2)] {
            let report = sync(&netlink, desired, &Scope::All).await;
            assert_eq!((report.written, report.errors.len()), (expected, 0), "{report:?}");
            let unreachable = ours().matches("unreachable").count();
            assert_eq!(unreachable, if *desired == own { 2 } else { 0 }, "{}", ours());
        }
        let report = sync(&netlink, &[], &Scope::All).await;
        assert_eq!((report.removed, ours().as_str()), (2, ""), "{report:?}");
    });
}

#[test]
fn foreign_routes_are_left_as_they_are() {
    inside(|netlink| async move {
        uplink();
        ip("route add 10.1.0.0/24 via 192.0.2.9 proto bird");
        ip("route add 10.9.0.0/24 via 192.0.2.9");
        let before = ip("route");
        let report = sync(&netlink, &routes(PEER_A)[..1], &Scope::All).await;
        assert_eq!((report.written, report.errors.len()), (0, 1));
        assert!(report.errors[0].to_string().contains("10.1.0.0/24"), "{}", report.errors[0]);
        assert_eq!(ip("route"), before);
        sync(&netlink, &[], &Scope::All).await;
        assert_eq!(ip("route"), before);

        let report = sync(&netlink, &routes(["192.0.2.9", PEER_A[1]])[..1], &Scope::All).await;
        assert_eq!(
            (report.written, report.errors.len()),
            (0, 0),
            "a foreign route that does it is as good as ours"
        );
    });
}

#[test]
fn a_node_that_is_not_on_the_link_is_one_error_and_the_rest_is_done() {
    inside(|netlink| async move {
        uplink();
        let report = sync(&netlink, &routes(["198.51.100.1", PEER_A[1]]), &Scope::All).await;
        assert_eq!((report.written, report.errors.len()), (1, 1), "{report:?}");
        assert!(report.errors[0].to_string().contains("198.51.100.1"), "{}", report.errors[0]);
    });
}

#[test]
fn forwarding_is_switched_on_in_the_namespace_of_the_agent() {
    inside(|_| async {
        uplink();
        let state = tempfile::tempdir().expect("a directory");
        let sysctls = Sysctls::at(Path::new("/proc/sys"), state.path());
        for family in [Family::V4, Family::V6] {
            assert!(sysctls.ensure_forwarding(family, Some("uplink")).expect("switching"), "{family:?}");
            assert!(!sysctls.ensure_forwarding(family, Some("uplink")).expect("switching"), "{family:?}");
        }
        let accept_ra =
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/uplink/accept_ra").expect("a switch");
        assert_eq!(accept_ra.trim(), "2", "the uplink goes on accepting router advertisements");
        let restored: Vec<_> = sysctls.restore().into_iter().collect::<Result<_, _>>().expect("set back");
        assert!(restored.iter().any(|sentence| sentence.contains("ip_forward is 0 again")), "{restored:?}");
    });
}
