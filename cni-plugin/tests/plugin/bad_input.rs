use serde_json::{Value, json};

use crate::{fake_agent::OnAttach, node::Node};

/// The verbs that name an attachment.
const VERBS: [&str; 3] = ["ADD", "DEL", "CHECK"];

fn set(node: &Node, verb: &str, name: &str, value: &str) -> Vec<(&'static str, String)> {
    let mut variables = node.variables(verb);
    variables.iter_mut().find(|(variable, _)| *variable == name).expect("a variable").1 = value.into();
    variables
}

#[test]
fn a_wrong_variable_is_named() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let config = node.config().to_string();
    let cases = [
        ("CNI_CONTAINERID", vec!["", "-x", "a/b", "../../etc", "a b", "ü", "a\nb"]),
        ("CNI_IFNAME", vec!["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx"]),
    ];
    for verb in VERBS {
        for (name, values) in &cases {
            for value in values {
                let answer = node.call_with(&set(&node, verb, name, value), config.as_bytes());
                assert_eq!(answer.code(), 4, "{verb} {name}={value:?}: {}", answer.json);
                assert!(answer.message().contains(name), "{verb} {name}={value:?}: {}", answer.message());
            }
        }
    }
    for value in ["", "/run/netns/mrcni-absent", "/proc/self/ns/net", "/proc/self/ns/uts", "/etc/hostname"] {
        let answer = node.call_with(&set(&node, "ADD", "CNI_NETNS", value), config.as_bytes());
        assert_eq!(answer.code(), 4, "CNI_NETNS={value}: {}", answer.json);
        assert!(answer.message().contains("CNI_NETNS"), "{}", answer.message());
    }
    for value in ["", "K8S_POD_NAME=web", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b/c", "torn"] {
        let answer = node.call_with(&set(&node, "ADD", "CNI_ARGS", value), config.as_bytes());
        assert_eq!(answer.code(), 4, "CNI_ARGS={value}: {}", answer.json);
        assert!(answer.message().contains("CNI_ARGS"), "{}", answer.message());
    }
    for value in ["", "add", "REMOVE"] {
        let answer = node.call_with(&set(&node, "ADD", "CNI_COMMAND", value), config.as_bytes());
        assert_eq!(answer.code(), 4);
        assert!(answer.message().contains("CNI_COMMAND"), "{}", answer.message());
    }
    assert!(agent.requests().is_empty(), "nothing may reach the agent");
    node.assert_clean();
}

#[test]
fn names_at_the_limits_are_accepted() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let config = node.config().to_string();
    let long_id = "a".repeat(1000);
    for (name, value) in
        [("CNI_IFNAME", "exactly15bytes_"), ("CNI_IFNAME", "grün.1"), ("CNI_CONTAINERID", &long_id)]
    {
        node.call_with(&set(&node, "ADD", name, value), config.as_bytes()).assert_success();
        node.call_with(&set(&node, "DEL", name, value), config.as_bytes()).assert_success();
    }
    node.assert_clean();
}

#[test]
fn input_that_is_not_a_configuration_cannot_be_decoded() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let endless = vec![b' '; 10 << 20];
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for input in [b"".as_slice(), b"{", b"nonsense", b"[]", b"null", b"\xff\xfe", &endless] {
            let answer = node.call_with(&node.variables(verb), input);
            assert_eq!(answer.code(), 6, "{verb}: {}", answer.json);
        }
    }
    assert!(agent.requests().is_empty(), "nothing may reach the agent");
}

#[test]
fn a_wrong_field_is_named() {
    let (node, agent) = Node::with_agent(OnAttach::Succeed);
    let cases: [(&str, Value, u64); 8] = [
        ("cniVersion", json!("0.2.0"), 1),
        ("cniVersion", json!("2.0.0"), 1),
        ("cniVersion", Value::Null, 7),
        ("name", json!("a/b"), 7),
        ("name", json!(""), 7),
        ("type", json!(""), 7),
        ("runtimeDir", json!("relative"), 7),
        ("stateDir", json!({}), 7),
    ];
    for verb in VERBS {
        for (field, value, code) in &cases {
            let mut config = node.config();
            config[*field] = value.clone();
            let answer = node.call_with_config(verb, &config);
            assert_eq!(answer.code(), *code, "{verb} {field}={value}: {}", answer.json);
            assert!(answer.message().contains(field), "{verb} {field}={value}: {}", answer.message());
        }
    }
    let mut config = node.config();
    config["prevResult"] = json!({"ips": "torn"});
    let answer = node.call_with_config("ADD", &config);
    assert_eq!(answer.code(), 7);
    assert!(answer.message().contains("prevResult"), "{}", answer.message());
    assert!(agent.requests().is_empty(), "nothing may reach the agent");
}

#[test]
fn unknown_fields_and_variables_are_ignored() {
    let (node, _agent) = Node::with_agent(OnAttach::Succeed);
    let mut config = node.config();
    config["runtimeConfig"] = json!({"mac": "x"});
    config["future"] = json!([1]);
    let mut variables = node.variables("ADD");
    variables.push(("CNI_FUTURE", "1".into()));
    variables.push(("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()));
    node.call_with(&variables, config.to_string().as_bytes()).assert_success();
}

#[test]
fn errors_have_the_version_that_was_asked_for() {
    let mut node = Node::new();
    for version in ["0.3.1", "1.0.0"] {
        node.version = version;
        assert_eq!(node.call("ADD").json["cniVersion"], version);
    }
}

#[test]
fn version_answers_whatever_is_on_standard_input() {
    let node = Node::new();
    for input in [b"".as_slice(), b"nonsense", b"{\"cniVersion\":\"0.1.0\"}"] {
        let answer = node.call_with(&[("CNI_COMMAND", "VERSION".into())], input);
        answer.assert_success();
        let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(answer.json, json!({"cniVersion": "1.1.0", "supportedVersions": versions}));
    }
}
