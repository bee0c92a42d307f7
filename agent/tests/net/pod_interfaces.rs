use crate::namespace::{inside, ip};

#[test]
fn an_interface_tells_all_about_its_pod() {
    inside(|netlink| async move {
        // As the CNI plugin makes it.
        ip("link add mr0123456789ab address 02:00:00:00:00:01 type veth peer name pod");
        let alias = "millrace/1 pods c0ffee eth0 default/web uid-1";
        let set = ["link", "set", "mr0123456789ab", "alias", alias];
        assert!(std::process::Command::new("ip").args(set).status().unwrap().success());
        ip("link set mr0123456789ab up");
        for (address, prefix) in [("10.0.0.5", "32"), ("fd00::5", "128")] {
            ip(&format!("neigh add {address} lladdr 02:00:00:00:00:02 nud permanent dev mr0123456789ab"));
            ip(&format!("route add {address}/{prefix} dev mr0123456789ab proto 201"));
        }
        // Neither of these is ours.
        ip("link add mrbridge type bridge");
        ip("link set mrbridge up");
        ip("route add 10.0.0.6/32 dev mrbridge");

        let found = netlink.pod_interfaces().await.expect("the interfaces");
        assert_eq!(found.len(), 1, "{found:?}");
        let interface = &found[0];
        assert_eq!(interface.host_ifname, "mr0123456789ab");
        assert_eq!(interface.host_mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(interface.pod_mac, Some([2, 0, 0, 0, 0, 2]));
        let addresses = ["10.0.0.5", "fd00::5"].map(|address| address.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(interface.addresses, addresses);
        let label = interface.label.as_ref().expect("a label");
        assert_eq!(label.attachment.container_id, "c0ffee");
        assert_eq!(label.pod.as_ref().expect("a pod").name, "web");
        let link = netlink.link("mr0123456789ab").await.expect("an answer").expect("a link");
        assert_eq!((link.index, link.alias.as_str()), (interface.host_ifindex, alias));
    });
}
