use std::{net::UdpSocket, time::Duration};

use agent_api::{Request, interface::Label};
use serde_json::Value;

use crate::{
    fake_agent::OnAttach,
    node::{Namespace, Node},
};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON of ip")
}

#[test]
fn the_result_has_the_shape_of_the_version_that_was_asked_for() {
    for version in VERSIONS {
        let (mut node, _agent) = Node::with_agent(OnAttach::Succeed);
        node.version = version;
        let answer = node.call("ADD");
        answer.assert_success();
        let result = &answer.json;
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], node.pod.path());
        assert!(result["interfaces"][0].get("sandbox").is_none());
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0", "{version}");
        let ips = result["ips"].as_array().expect("a list");
        assert_eq!(ips.len(), 2);
        assert_eq!(ips[0]["address"], "10.77.0.9/32");
        assert_eq!(ips[1]["gateway"], "fe80::1");
        assert!(ips.iter().all(|ip| ip["interface"] == 1));
        let has_family = version.starts_with("0.");
        assert_eq!(
            ips[1].get("version").map(|family| family == "6"),
            has_family.then_some(true),
            "{version}"
        );
        assert_eq!(result["routes"][1]["dst"], "::/0");
        assert!(result["dns"].is_object());
    }
}

#[test]
fn the_pod_reaches_its_gateways_by_static_neighbours_only() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let answer = node.call("ADD");
    answer.assert_success();
    let host_mac = answer.json["interfaces"][0]["mac"].clone();
    let pod_mac = answer.json["interfaces"][1]["mac"].clone();
    let host_ifname = answer.json["interfaces"][0]["name"].as_str().expect("a name").to_owned();

    let addresses = node.pod.run("ip -br addr show eth0");
    assert!(addresses.contains("10.77.0.9/32") && addresses.contains("fd77::9/128"), "{addresses}");
    assert!(!node.pod.run("ip -6 addr show eth0 tentative").contains("fd77"));
    let routes = node.pod.run("ip route") + &node.pod.run("ip -6 route show default");
    assert!(routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("onlink"), "{routes}");
    assert!(routes.contains("default via fe80::1 dev eth0"), "{routes}");
    let neighbours = json(&node.pod.run("ip -j neigh show dev eth0 nud permanent"));
    for gateway in ["169.254.1.1", "fe80::1"] {
        let entry = neighbours.as_array().unwrap().iter().find(|entry| entry["dst"] == gateway);
        assert_eq!(entry.expect("a neighbour for the gateway")["lladdr"], host_mac);
    }

    let routes = node.host.run("ip route show proto 201") + &node.host.run("ip -6 route show proto 201");
    assert!(routes.contains("10.77.0.9") && routes.contains("fd77::9"), "{routes}");
    let neighbours = json(&node.host.run(&format!("ip -j neigh show dev {host_ifname} nud permanent")));
    assert_eq!(neighbours.as_array().unwrap().len(), 2);
    assert!(neighbours.as_array().unwrap().iter().all(|entry| entry["lladdr"] == pod_mac), "{neighbours}");

    let Request::Attach { interface, .. } = agent.requests().swap_remove(1) else { panic!("no attach") };
    assert_eq!(interface.host_ifname, host_ifname);
    let link = json(&node.host.run(&format!("ip -j link show {host_ifname}")));
    assert_eq!(link[0]["ifindex"], interface.host_ifindex);
    assert_eq!(link[0]["mtu"], 1400);
    let label: Label = link[0]["ifalias"].as_str().expect("an alias").parse().expect("a label");
    assert_eq!(label.pod.expect("a pod").name, "web");
}

/// Sends one datagram each way; none may be lost.
fn assert_exchange(host: &Namespace, host_address: &str, pod: &Namespace, pod_address: &str) {
    let bind = |namespace: &Namespace, address: &str| {
        let socket =
            namespace.inside(|| UdpSocket::bind((address, 4000)).expect("an address of the namespace"));
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
        socket
    };
    let (in_host, in_pod) = (bind(host, host_address), bind(pod, pod_address));
    let mut buffer = [0; 8];
    for (from, to, address) in [(&in_host, &in_pod, pod_address), (&in_pod, &in_host, host_address)] {
        from.send_to(b"first", (address, 4000)).expect("sending");
        let (length, _) = to.recv_from(&mut buffer).unwrap_or_else(|error| panic!("to {address}: {error}"));
        assert_eq!(&buffer[..length], b"first");
    }
}

#[test]
fn host_and_pod_exchange_their_first_packets_as_soon_as_add_has_answered() {
    for _ in 0..20 {
        let (node, _agent) = Node::with_agent(OnAttach::Succeed);
        node.host.run("ip link set lo up");
        node.host.run("ip addr add 192.0.2.1/32 dev lo");
        node.host.run("ip addr add 2001:db8::1/128 dev lo nodad");
        node.call("ADD").assert_success();
        assert_exchange(&node.host, "192.0.2.1", &node.pod, "10.77.0.9");
        assert_exchange(&node.host, "2001:db8::1", &node.pod, "fd77::9");
    }
}

#[test]
fn the_host_side_takes_no_advice_from_the_pod() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    // Defaults of a host that filters strictly and has IPv6 switched off for new interfaces.
    for default in ["net.ipv4.conf.default.rp_filter=1", "net.ipv6.conf.default.disable_ipv6=1"] {
        node.host.run(&format!("sysctl -qw {default}"));
    }
    node.pod.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let answer = node.call("ADD");
    answer.assert_success();
    let host_ifname = answer.json["interfaces"][0]["name"].as_str().expect("a name").to_owned();
    for (switch, value) in [
        ("ipv4/conf/IF/rp_filter", "0"),
        ("ipv4/conf/IF/forwarding", "1"),
        ("ipv6/conf/IF/accept_ra", "0"),
        ("ipv6/conf/IF/disable_ipv6", "0"),
    ] {
        let path = format!("/proc/sys/net/{}", switch.replace("IF", &host_ifname));
        assert_eq!(node.host.run(&format!("cat {path}")).trim(), value, "{switch}");
    }
    assert!(node.pod.run("ip -6 addr show eth0").contains("fd77::9"));
}

#[test]
fn an_interface_name_that_is_taken_is_refused_and_left_alone() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    node.pod.run("ip link add eth0 type bridge");
    let answer = node.call("ADD");
    assert_eq!(answer.code(), 4);
    assert!(answer.message().contains("CNI_IFNAME"), "{}", answer.message());
    assert!(agent.requests().is_empty(), "nothing may be reserved");
    node.call("DEL").assert_success();
    assert_eq!(node.pod.links(), ["eth0"], "DEL must not delete what ADD did not make");
}

#[test]
fn a_failure_in_the_middle_leaves_nothing_behind() {
    let (node, agent) = Node::with_agent(OnAttach::Fail);
    let answer = node.call("ADD");
    assert_eq!(answer.code(), 11);
    assert!(answer.message().contains("default/web"), "{}", answer.message());
    node.assert_clean();
    assert_eq!(agent.detached(), 1);
}

#[test]
fn add_works_again_after_del() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    for _ in 0..3 {
        node.call("ADD").assert_success();
        assert_eq!(node.call("ADD").code(), 4, "the second ADD finds the name taken");
        node.call("DEL").assert_success();
        node.assert_clean();
    }
}

#[test]
fn two_interfaces_of_one_container_live_side_by_side() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let config = node.config().to_string();
    for ifname in ["eth0", "net1"] {
        let mut variables = node.variables("ADD");
        variables.iter_mut().find(|(name, _)| *name == "CNI_IFNAME").unwrap().1 = ifname.into();
        node.call_with(&variables, config.as_bytes()).assert_success();
    }
    assert_eq!(node.pod.links().len(), 2);
    assert_eq!(node.host.links().len(), 2);
}

#[test]
fn results_of_earlier_plugins_are_passed_on() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    config["prevResult"] = serde_json::json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "other0"}],
        "ips": [{"address": "192.0.2.9/24", "interface": 0}],
    });
    let answer = node.call_with_config("ADD", &config);
    answer.assert_success();
    assert_eq!(answer.json["interfaces"][0]["name"], "other0");
    assert_eq!(answer.json["ips"][2]["interface"], 2);
}
