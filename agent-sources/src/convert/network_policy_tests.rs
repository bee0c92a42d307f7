use agent_core::model::policy;

use super::NetworkPolicy;
use crate::convert::{Convert, Outcome, outcome_text};

fn convert(spec: &str) -> Outcome<policy::NetworkPolicy> {
    let yaml = format!("{{metadata: {{name: db, namespace: shop}}, spec: {spec}}}");
    serde_saphyr::from_str::<NetworkPolicy>(&yaml).unwrap_or_else(|error| panic!("{spec}: {error}")).convert()
}

fn check(spec: &str, expected: &str) {
    let text = outcome_text(convert(spec), |policy| {
        format!(
            "ingress {} egress {}",
            rules_text(policy.ingress.as_deref()),
            rules_text(policy.egress.as_deref())
        )
    });
    assert_eq!(text, expected, "{spec}");
}

/// `-` for no isolation, else each rule as `peers:ports`, `*` for any.
fn rules_text(rules: Option<&[policy::PolicyRule]>) -> String {
    let Some(rules) = rules else { return "-".to_owned() };
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| {
            let peers = match &rule.peers {
                policy::Peers::Any => "*".to_owned(),
                policy::Peers::OneOf(peers) => format!("{}", peers.len()),
            };
            let ports = match &rule.ports {
                policy::Ports::Any => "*".to_owned(),
                policy::Ports::OneOf(ports) => ports.iter().map(port_text).collect::<Vec<_>>().join("+"),
            };
            format!("{peers}:{ports}")
        })
        .collect();
    format!("[{}]", rules.join(" "))
}

fn port_text(port: &policy::PolicyPort) -> String {
    match &port.port {
        policy::PortMatch::Any => format!("any/{}", port.protocol),
        policy::PortMatch::Range { first, last } => format!("{first}-{last}/{}", port.protocol),
        policy::PortMatch::Named(name) => format!("{name}/{}", port.protocol),
    }
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_when_it_has_rules() {
    for (spec, expected) in [
        ("{}", "ingress [] egress -"),
        ("null", "ingress [] egress -"),
        ("{policyTypes: []}", "ingress [] egress -"),
        ("{policyTypes: null, egress: []}", "ingress [] egress -"),
        ("{egress: [{}]}", "ingress [] egress [*:*]"),
        ("{ingress: [{}], egress: [{}]}", "ingress [*:*] egress [*:*]"),
        ("{policyTypes: [Ingress], egress: [{}]}", "ingress [] egress -"),
        ("{policyTypes: [Egress]}", "ingress - egress []"),
        ("{policyTypes: [Egress], ingress: [{}]}", "ingress - egress []"),
        ("{policyTypes: [Ingress, Egress]}", "ingress [] egress []"),
        ("{policyTypes: [Egress, Egress]}", "ingress - egress []"),
        (
            "{policyTypes: [egress]}",
            "stand-in ingress [] egress []: spec.policyTypes[0] is \"egress\", which is no known direction",
        ),
    ] {
        check(spec, expected);
    }
}

#[test]
fn peers_mean_what_their_combination_of_selectors_means() {
    let own = |labels: &str| format!("Named(\"shop\"), pods: {labels}");
    for (peer, expected) in [
        ("{podSelector: {}}", own("{}")),
        ("{podSelector: {matchLabels: {app: api}}}", own("{app In [api]}")),
        ("{namespaceSelector: {}}", "Selected({}), pods: {}".to_owned()),
        ("{podSelector: null, namespaceSelector: {}}", "Selected({}), pods: {}".to_owned()),
        (
            "{podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchExpressions: [
                {key: team, operator: NotIn, values: [red, blue]}, {key: env, operator: Exists},
                {key: old, operator: DoesNotExist}]}}",
            "Selected({env Exists, old DoesNotExist, team NotIn [blue, red]}), pods: {a In [b]}".to_owned(),
        ),
    ] {
        let Outcome::Usable { model, .. } = convert(&format!("{{ingress: [{{from: [{peer}]}}]}}")) else {
            panic!("{peer}")
        };
        let [policy::PolicyRule { peers: policy::Peers::OneOf(peers), .. }] =
            model.ingress.as_deref().unwrap()
        else {
            panic!("{peer}")
        };
        let [policy::Peer::Pods { namespaces, pods }] = peers.as_slice() else { panic!("{peer}") };
        let namespaces = match namespaces {
            policy::NamespaceMatch::Named(name) => format!("Named({name:?})"),
            policy::NamespaceMatch::Selected(selector) => format!("Selected({})", selector_text(selector)),
        };
        assert_eq!(format!("{namespaces}, pods: {}", selector_text(pods)), expected, "{peer}");
    }
}

fn selector_text(selector: &agent_core::model::selector::LabelSelector) -> String {
    use agent_core::model::selector::Operator;
    let requirement = |requirement: &agent_core::model::selector::Requirement| {
        let values = |values: &[String]| format!("[{}]", values.join(", "));
        let operator = match &requirement.operator {
            Operator::In(list) => format!("In {}", values(list)),
            Operator::NotIn(list) => format!("NotIn {}", values(list)),
            Operator::Exists => "Exists".to_owned(),
            Operator::DoesNotExist => "DoesNotExist".to_owned(),
        };
        format!("{} {operator}", requirement.key)
    };
    format!("{{{}}}", selector.requirements.iter().map(requirement).collect::<Vec<_>>().join(", "))
}

#[test]
fn an_absent_or_empty_list_of_peers_or_ports_means_all() {
    for spec in
        ["{ingress: [{}]}", "{ingress: [{from: [], ports: []}]}", "{ingress: [{from: null, ports: null}]}"]
    {
        check(spec, "ingress [*:*] egress -");
    }
}

#[test]
fn ports_are_numbers_ranges_names_or_a_whole_protocol() {
    for (ports, expected) in [
        ("[{}]", "any/TCP"),
        ("[{protocol: UDP}]", "any/UDP"),
        ("[{port: 80}]", "80-80/TCP"),
        ("[{port: 80, endPort: 80}, {protocol: SCTP, port: 1, endPort: 65535}]", "80-80/TCP+1-65535/SCTP"),
        ("[{port: http}]", "http/TCP"),
        ("[{port: serve-81-udp, protocol: UDP}]", "serve-81-udp/UDP"),
    ] {
        check(&format!("{{ingress: [{{ports: {ports}}}]}}"), &format!("ingress [*:{expected}] egress -"));
    }
}

#[test]
fn address_blocks_are_canonical() {
    let spec = "{egress: [{to: [{ipBlock: {cidr: 10.161.0.0/8, except: [010.1.2.3/16]}}]}]}";
    let Outcome::Usable { model, .. } = convert(spec) else { panic!("{spec}") };
    let policy::Peers::OneOf(peers) = &model.egress.as_ref().unwrap()[0].peers else { panic!("{spec}") };
    let [policy::Peer::IpBlock(block)] = peers.as_slice() else { panic!("{spec}") };
    assert_eq!(block.cidr.to_string(), "10.0.0.0/8");
    assert_eq!(block.except.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/16"]);
}

/// The bad item matches nothing, the good one beside it still counts, the pods stay isolated.
#[test]
fn a_bad_peer_matches_nothing_and_is_named() {
    for (peer, problem) in [
        ("{}", " is empty"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", " has ipBlock together with a selector"),
        ("{ipBlock: {cidr: 10.0.0.0/33}}", ".ipBlock.cidr is \"10.0.0.0/33\", which is no address range"),
        ("{ipBlock: {}}", ".ipBlock.cidr is \"\", which is no address range"),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0]}}",
            ".ipBlock.except[0] is \"10.0.0.0\", which is no address range",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}",
            ".ipBlock.except[0] is \"10.0.0.0/8\", which is no part of 10.0.0.0/8",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}",
            ".ipBlock.except[0] is \"11.0.0.0/16\", which is no part of 10.0.0.0/8",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/64']}}",
            ".ipBlock.except[0] is \"fd00::/64\", which is no part of 10.0.0.0/8",
        ),
        ("{podSelectr: {}}", ".podSelectr is no known field"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            ".podSelector.matchExpressions[0].operator is \"in\", which is no known operator",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            ".podSelector.matchExpressions[0].values is empty, but operator In compares with values",
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            ".namespaceSelector.matchExpressions[0].values is not empty, but operator Exists takes no values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a b, operator: Exists}]}}",
            ".podSelector.matchExpressions[0].key holds \"a b\", which is no label key",
        ),
        (
            "{podSelector: {matchLabels: {app: 'my app'}}}",
            ".podSelector.matchLabels holds \"my app\", which is no label value",
        ),
        ("{podSelector: {matchLabel: {app: api}}}", ".podSelector.matchLabel is no known field"),
    ] {
        let spec =
            format!("{{ingress: [{{from: [{peer}, {{podSelector: {{}}}}], ports: [{{port: 5432}}]}}]}}");
        let expected =
            format!("stand-in ingress [1:5432-5432/TCP] egress -: spec.ingress[0].from[0]{problem}");
        check(&spec, &expected);
    }
    check("{ingress: [{from: [{}]}]}", "stand-in ingress [0:*] egress -: spec.ingress[0].from[0] is empty");
}

#[test]
fn a_bad_port_matches_nothing_and_is_named() {
    for (port, problem) in [
        ("{port: 0}", ".port is 0, which is no port number"),
        ("{port: 65536}", ".port is 65536, which is no port number"),
        ("{port: '80'}", ".port is \"80\", which is no port name"),
        ("{port: HTTP}", ".port is \"HTTP\", which is no port name"),
        ("{port: a-name-that-is-too-long}", ".port is \"a-name-that-is-too-long\", which is no port name"),
        ("{endPort: 90}", ".endPort is set without port"),
        ("{port: http, endPort: 90}", ".endPort is set with a named port"),
        ("{port: 90, endPort: 80}", ".endPort is 80, below port 90"),
        ("{port: 90, endPort: 70000}", ".endPort is 70000, which is no port number"),
        ("{port: 80, protocol: tcp}", ".protocol is \"tcp\", which is no known protocol"),
        ("{port: 80, protocol: ''}", ".protocol is \"\", which is no known protocol"),
        ("{prot: 80}", ".prot is no known field"),
    ] {
        let expected = format!("stand-in ingress [*:53-53/UDP] egress -: spec.ingress[0].ports[0]{problem}");
        check(&format!("{{ingress: [{{ports: [{port}, {{port: 53, protocol: UDP}}]}}]}}"), &expected);
    }
    check(
        "{ingress: [{ports: [{port: 0}]}]}",
        "stand-in ingress [*:] egress -: spec.ingress[0].ports[0].port is 0, which is no port number",
    );
}

#[test]
fn a_misspelt_restriction_does_not_allow_everybody() {
    check(
        "{ingress: [{form: [{podSelector: {}}]}]}",
        "stand-in ingress [0:*] egress -: spec.ingress[0].form is no known field",
    );
    check(
        "{ingress: [{to: [{podSelector: {}}]}]}",
        "stand-in ingress [0:*] egress -: spec.ingress[0].to is no field of this direction",
    );
    check("{ingres: []}", "stand-in ingress [] egress -: spec.ingres is no known field");
}

#[test]
fn a_policy_whose_pods_are_unknown_says_nothing() {
    check(
        "{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}",
        "nothing: spec.podSelector.matchExpressions[0].operator is \"Like\", which is no known operator",
    );
}

#[test]
fn a_problem_is_one_sentence_with_object_field_and_remedy() {
    let Outcome::Invalid { problems, .. } = convert("{ingress: [{from: [{ipBlock: {cidr: 10.0.0/8}}]}]}")
    else {
        panic!()
    };
    assert_eq!(
        problems[0].to_string(),
        "NetworkPolicy shop/db: spec.ingress[0].from[0].ipBlock.cidr is \"10.0.0/8\", which is no address range; \
         use a range like 10.0.0.0/8 or fd00::/64"
    );
}
