use std::{
    fs,
    time::{Duration, SystemTime},
};

use agent_api::{Request, SERVED_NAME, SOCKET_NAME};
use serde_json::json;

use crate::{fake_agent::OnAttach, node::Node};

#[test]
fn check_finds_what_was_damaged_and_nothing_else() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let result = node.call("ADD").json;
    let host_ifname = result["interfaces"][0]["name"].as_str().expect("a name").to_owned();
    let mut config = node.config();
    assert_eq!(node.call_with_config("CHECK", &config).code(), 7, "prevResult is missing");
    config["prevResult"] = result;
    node.call_with_config("CHECK", &config).assert_success();

    // What later plugins may do.
    node.pod.run("ip route add 198.51.100.0/24 via 169.254.1.1 dev eth0 onlink");
    node.pod.run("ip addr add 198.51.100.1/32 dev eth0");
    node.call_with_config("CHECK", &config).assert_success();

    let damages = [
        ("ip netns exec POD ip addr del fd77::9/128 dev eth0", "fd77::9"),
        ("ip netns exec POD ip addr add fd77::9/128 dev eth0 nodad", ""),
        ("ip netns exec POD ip route del default", "0.0.0.0/0"),
        ("ip netns exec POD ip route add default via 169.254.1.1 dev eth0 onlink", ""),
        ("ip route del 10.77.0.9/32", "10.77.0.9/32"),
        ("ip route add 10.77.0.9/32 dev HOST", ""),
        ("ip link set HOST down", "down"),
        ("ip link del HOST", "eth0"),
    ];
    for (damage, named) in damages {
        node.host.run(&damage.replace("POD", &node.pod.name).replace("HOST", &host_ifname));
        let answer = node.call_with_config("CHECK", &config);
        if named.is_empty() {
            answer.assert_success();
        } else {
            assert_eq!(answer.code(), 102, "{damage}");
            assert!(answer.message().contains(named), "{damage}: {}", answer.message());
        }
    }
}

#[test]
fn check_fails_for_what_the_agent_misses() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    config["prevResult"] = node.call("ADD").json;
    node.call_with_config("CHECK", &config).assert_success();
    let asked = agent.requests();
    assert!(
        matches!(asked.last(), Some(Request::Check { attachment }) if attachment.ifname == "eth0"),
        "{asked:?}"
    );
    agent.miss("pod default/web: from_pod is not attached");
    let answer = node.call_with_config("CHECK", &config);
    assert_eq!(answer.code(), 102);
    assert!(answer.message().contains("from_pod is not attached"), "{}", answer.message());
}

#[test]
fn check_fails_without_an_agent() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    config["prevResult"] = node.call("ADD").json;
    config["runtimeDir"] = json!("/nonexistent");
    assert_eq!(node.call_with_config("CHECK", &config).code(), 11);
}

#[test]
fn gc_removes_what_is_not_listed_and_only_of_its_own_network() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    let add = |network: &str, container: &str| {
        let mut config = node.config();
        config["name"] = json!(network);
        let mut variables = node.variables("ADD");
        variables.iter_mut().find(|(name, _)| *name == "CNI_CONTAINERID").unwrap().1 = container.into();
        variables.iter_mut().find(|(name, _)| *name == "CNI_IFNAME").unwrap().1 = container.into();
        node.call_with(&variables, config.to_string().as_bytes()).assert_success();
    };
    add("pods", "listed");
    add("pods", "stale");
    add("other", "foreign");
    node.host.run("ip link add mrbridge type bridge");

    assert_eq!(node.call_with_config("GC", &config).code(), 7, "a missing list removes nothing");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "listed", "ifname": "listed"}]);
    let answer = node.call_with_config("GC", &config);
    answer.assert_success();
    assert!(answer.json.is_null(), "GC prints nothing");
    let mut left = node.pod.links();
    left.sort();
    assert_eq!(left, ["foreign", "listed"]);
    assert!(node.host.links().contains(&"mrbridge".to_owned()));
    assert_eq!(agent.detached(), 1);

    // What a runtime that is written in Go says when nothing is left.
    config["cni.dev/valid-attachments"] = serde_json::Value::Null;
    config["cni.dev/attachments"] = serde_json::Value::Null;
    node.call_with_config("GC", &config).assert_success();
    assert_eq!(node.pod.links(), ["foreign"]);
}

#[test]
fn status_says_whether_add_would_be_served() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    node.call("STATUS").assert_success();
    assert_eq!(Node::new().call("STATUS").code(), 50);
}

#[test]
fn an_agent_that_is_being_replaced_makes_no_node_unready() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    node.call("STATUS").assert_success();
    fs::remove_file(node.dir.path().join(SOCKET_NAME)).unwrap();
    node.call("STATUS").assert_success();
    assert_eq!(node.call("ADD").code(), 11, "what is asked for meanwhile is tried again");

    // The wall clock is set, forward or back.
    let path = node.dir.path().join(SERVED_NAME);
    let hour = Duration::from_hours(1);
    for time in [SystemTime::now() - hour, SystemTime::now() + hour] {
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        node.call("STATUS").assert_success();
    }

    let mark = fs::read_to_string(&path).unwrap();
    let (boot_id, millis) = mark.trim().split_once(' ').unwrap();
    let millis: u64 = millis.parse().unwrap();
    let older = format!("{boot_id} {}", millis.saturating_sub(60_000));
    for mark in [older, format!("another-boot {millis}"), format!("{boot_id} {}", millis + 60_000)] {
        fs::write(&path, &mark).unwrap();
        let answer = node.call("STATUS");
        assert_eq!(answer.code(), 50, "{mark}");
        assert!(answer.message().contains("does not answer"), "{}", answer.message());
    }
}

#[test]
fn a_node_that_would_refuse_a_pod_says_why_and_is_not_ready() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    agent.refuse("Node n: it has no spec.podCIDRs");
    let answer = node.call("STATUS");
    assert_eq!(answer.code(), 50);
    assert!(answer.message().contains("spec.podCIDRs"), "{}", answer.message());
    assert!(
        !agent.requests().iter().any(|request| matches!(request, agent_api::Request::Status)),
        "a small question"
    );
}

#[test]
fn older_versions_do_not_have_the_newer_verbs() {
    let (mut node, _agent) = Node::with_agent(OnAttach::Succeed);
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        node.version = version;
        let answer = node.call(verb);
        assert_eq!(answer.code(), 1);
        assert!(answer.message().contains(verb), "{}", answer.message());
    }
}
