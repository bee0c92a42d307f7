use agent_core::model::Family;

use crate::namespace::{inside, ip};

#[test]
fn the_uplink_of_each_family_is_the_holder_of_the_address_or_of_the_default_route() {
    inside(|netlink| async move {
        ip("link set lo up");
        for name in ["first", "second"] {
            ip(&format!("link add {name} type veth peer name {name}-peer"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name}-peer up"));
        }
        ip("link set second mtu 9000");
        ip("addr add 192.0.2.1/24 dev first");
        ip("addr add 198.51.100.1/24 dev second");
        ip("addr add 203.0.113.7/32 dev lo");
        ip("route add default via 192.0.2.254");
        let name = async |family, address: &str| {
            let addresses = [address.parse().unwrap()];
            let picture = netlink.picture().await.expect("a picture");
            picture.uplink(family, &addresses).map(|link| (link.name.clone(), link.mtu))
        };
        assert_eq!(name(Family::V4, "198.51.100.1").await, Some(("second".into(), 9000)));
        assert_eq!(
            name(Family::V4, "203.0.113.7").await,
            Some(("first".into(), 1500)),
            "on loopback: the default route"
        );
        assert_eq!(
            name(Family::V4, "192.0.2.99").await,
            Some(("first".into(), 1500)),
            "unknown: the default route"
        );
        assert_eq!(name(Family::V6, "2001:db8::1").await, None);
    });
}
