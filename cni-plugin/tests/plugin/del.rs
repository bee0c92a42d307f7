use std::fs;

use crate::{
    fake_agent::OnAttach,
    node::{Namespace, Node},
};

#[test]
fn del_removes_the_interface_and_tells_the_agent() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    node.call("ADD").assert_success();
    let answer = node.call("DEL");
    answer.assert_success();
    assert!(answer.json.is_null(), "DEL prints nothing");
    node.assert_clean();
    assert_eq!(agent.detached(), 1);
}

#[test]
fn del_succeeds_for_what_never_was_and_as_often_as_it_is_asked() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    for _ in 0..3 {
        node.call("DEL").assert_success();
    }
    assert_eq!(agent.detached(), 3, "the agent decides what it knows");
}

#[test]
fn del_needs_no_namespace() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let no_netns = tempfile::NamedTempFile::new().expect("a file");
    let config = node.config().to_string();
    let paths = ["", "/run/netns/mrcni-gone", no_netns.path().to_str().expect("a path"), "/proc/self/ns/net"];
    for path in paths {
        node.call("ADD").assert_success();
        let mut variables = node.variables("DEL");
        variables.iter_mut().find(|(name, _)| *name == "CNI_NETNS").unwrap().1 = path.into();
        node.call_with(&variables, config.as_bytes()).assert_success();
        node.assert_clean();
    }
    assert_eq!(agent.detached(), paths.len());
}

#[test]
fn del_succeeds_after_the_namespace_is_gone() {
    let (mut node, agent) = Node::with_agent(OnAttach::Succeed);
    node.call("ADD").assert_success();
    let mut variables = node.variables("DEL");
    node.pod = Namespace::new("other");
    // The kernel destroys namespaces, and the interfaces in them, some time after their last name is gone.
    node.call_with(&variables, node.config().to_string().as_bytes()).assert_success();
    assert_eq!(node.host.links(), Vec::<String>::new());
    variables.retain(|(name, _)| *name != "CNI_NETNS");
    node.call_with(&variables, node.config().to_string().as_bytes()).assert_success();
    assert_eq!(agent.detached(), 2);
}

#[test]
fn a_renamed_host_side_is_found_through_the_pod() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let answer = node.call("ADD");
    let host_ifname = answer.json["interfaces"][0]["name"].as_str().expect("a name").to_owned();
    node.host.run(&format!("ip link set {host_ifname} down"));
    node.host.run(&format!("ip link set {host_ifname} name renamed0"));
    node.call("DEL").assert_success();
    node.assert_clean();
}

#[test]
fn a_previous_result_is_not_looked_at() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    for previous in [serde_json::json!({}), serde_json::json!(7), serde_json::json!({"ips": "torn"})] {
        config["prevResult"] = previous;
        node.call_with_config("DEL", &config).assert_success();
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_matters_only_while_the_agent_is_away() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    fs::write(node.state_dir(), "in the way").expect("writing a file");
    node.call("ADD").assert_success();
    node.call("DEL").assert_success();

    let alone = Node::new();
    fs::write(alone.state_dir(), "in the way").expect("writing a file");
    let answer = alone.call("DEL");
    assert_eq!(answer.code(), 11);
    let text = answer.json.to_string().to_lowercase();
    assert!(text.contains("state") && !text.contains("not found"), "{text}");
}
