//! `millrace policy list`.
use std::collections::{BTreeMap, BTreeSet};

use agent_core::catalog::PolicyInfo;
use dataplane_common::policy::{CLASS_ANY, Direction};
use serde::Serialize;

use super::Report;
use crate::{
    names::{Isolation, Names},
    node::{
        endpoint::Endpoint,
        policy::{Compiled, PortRange},
    },
    table::{Table, counted, joined},
};

/// A NetworkPolicy of the cluster.
#[derive(Debug, Serialize)]
struct PolicyRow {
    policy: String,
    selects: String,
    /// Number of rules; `null` when it does not isolate in this direction.
    ingress_rules: Option<usize>,
    egress_rules: Option<usize>,
    /// Pods of this node that it isolates.
    pods: BTreeSet<String>,
}

/// A policy set: the policies of one direction that isolate a group of pods of this node.
#[derive(Debug, Serialize)]
struct SetRow {
    set_id: u32,
    /// `null` when neither a pod nor the catalog tells.
    direction: Option<&'static str>,
    policies: Isolation,
    pods: BTreeSet<String>,
    rules: Vec<RuleRow>,
}

/// What one rule of a set allows, compiled.
#[derive(Debug, Serialize)]
struct RuleRow {
    rule: String,
    /// Classes of peers; none: every peer.
    classes: usize,
    ports: BTreeSet<PortRange>,
    entries: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct PolicyList {
    policies: Vec<PolicyRow>,
    sets: Vec<SetRow>,
}

impl PolicyList {
    pub(crate) fn new(compiled: &[Compiled], endpoints: &[Endpoint], names: &Names) -> Self {
        let mut sets: BTreeMap<u32, BTreeSet<Option<Direction>>> = BTreeMap::new();
        for endpoint in endpoints {
            for (set, direction) in both_sets(endpoint) {
                sets.entry(set).or_default().insert(Some(direction));
            }
        }
        for entry in compiled {
            // A set that no pod uses is about to go, or was left behind.
            sets.entry(entry.set).or_insert_with(|| BTreeSet::from([names.direction(entry.set)]));
        }
        let keys =
            sets.into_iter().flat_map(|(set, used)| used.into_iter().map(move |direction| (set, direction)));
        let mut sets: Vec<SetRow> =
            keys.map(|(set, direction)| set_row(set, direction, compiled, endpoints, names)).collect();
        sets.sort_by(|a, b| {
            (a.policies.to_string(), a.direction).cmp(&(b.policies.to_string(), b.direction))
        });
        let policies = names.catalog.policies.iter().map(|policy| policy_row(policy, &sets)).collect();
        Self { policies, sets }
    }
}

fn both_sets(endpoint: &Endpoint) -> impl Iterator<Item = (u32, Direction)> {
    let sets = [(endpoint.ingress_set, Direction::Ingress), (endpoint.egress_set, Direction::Egress)];
    sets.into_iter().filter(|(set, _)| *set != 0)
}

fn policy_row(policy: &PolicyInfo, sets: &[SetRow]) -> PolicyRow {
    let name = policy.name.to_string();
    let isolates = |set: &&SetRow| match &set.policies {
        Isolation::By { policies } => policies.contains(&name),
        Isolation::None | Isolation::Formerly { .. } | Isolation::BySet { .. } | Isolation::FailedClosed => {
            false
        }
    };
    PolicyRow {
        pods: sets.iter().filter(isolates).flat_map(|set| set.pods.clone()).collect(),
        selects: policy.selects.clone(),
        ingress_rules: policy.ingress,
        egress_rules: policy.egress,
        policy: name,
    }
}

fn set_row(
    set: u32,
    direction: Option<Direction>,
    compiled: &[Compiled],
    endpoints: &[Endpoint],
    names: &Names,
) -> SetRow {
    let uses =
        |endpoint: &&Endpoint| both_sets(endpoint).any(|used| Some(used) == direction.map(|d| (set, d)));
    let pod = |endpoint: &Endpoint| {
        names.pod(endpoint.ip).map_or_else(|| endpoint.ip.to_string(), ToString::to_string)
    };
    let mut by_rule: BTreeMap<String, Vec<&Compiled>> = BTreeMap::new();
    for entry in compiled.iter().filter(|entry| entry.set == set) {
        by_rule.entry(names.rule(entry.rule)).or_default().push(entry);
    }
    let rules = by_rule.into_iter().map(|(rule, entries)| {
        let classes: BTreeSet<u32> =
            entries.iter().map(|entry| entry.class).filter(|&c| c != CLASS_ANY).collect();
        let ports = entries.iter().map(|entry| entry.ports).collect();
        RuleRow { rule, classes: classes.len(), ports, entries: entries.len() }
    });
    SetRow {
        set_id: set,
        direction: direction.map(|direction| match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }),
        policies: names.isolation(set),
        pods: endpoints.iter().filter(uses).map(pod).collect(),
        rules: rules.collect(),
    }
}

impl Report for PolicyList {
    fn text(&self) -> String {
        let rules = |count: Option<usize>| match count {
            None => "-".to_owned(),
            Some(0) => "allows nothing".to_owned(),
            Some(count) => counted(count as u64, "rule"),
        };
        let mut policies = Table::new(&["POLICY", "SELECTS", "INGRESS", "EGRESS", "PODS HERE"]);
        for row in &self.policies {
            policies.row([
                row.policy.clone(),
                row.selects.clone(),
                rules(row.ingress_rules),
                rules(row.egress_rules),
                joined(&row.pods),
            ]);
        }
        let mut sets = Table::new(&["ISOLATED BY", "DIRECTION", "PODS", ">ENTRIES", "ALLOWED"]);
        for set in &self.sets {
            let entries: usize = set.rules.iter().map(|rule| rule.entries).sum();
            let mut rules = set.rules.iter().map(|rule| rule.rule.clone());
            let first = rules.next().unwrap_or_else(|| "nothing".to_owned());
            let direction = set.direction.unwrap_or("?").to_owned();
            sets.row([set.policies.to_string(), direction, joined(&set.pods), entries.to_string(), first]);
            for rule in rules {
                sets.row([String::new(), String::new(), String::new(), String::new(), rule]);
            }
        }
        let sets = sets.text("no policy isolates a pod of this node");
        if self.policies.is_empty() {
            return sets;
        }
        format!("{}\nCompiled for the pods of this node\n\n{sets}", policies.text(""))
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::ObjectName;
    use dataplane_common::net::proto;

    use super::*;
    use crate::node::Proto;

    fn list(names: &Names) -> PolicyList {
        let endpoint = |ip: &str, ingress_set, egress_set| Endpoint {
            ip: ip.parse().unwrap(),
            ifindex: 7,
            ingress_set,
            egress_set,
            pod_mac: [0; 6],
        };
        let ports = |first, last| PortRange::Of(Proto(proto::TCP), first, last);
        let compiled = [
            Compiled { set: 1, class: 5, ports: ports(5432, 5432), rule: 100 },
            Compiled { set: 1, class: 6, ports: ports(5432, 5432), rule: 100 },
            Compiled { set: 1, class: CLASS_ANY, ports: PortRange::AnyProtocol, rule: 101 },
        ];
        PolicyList::new(&compiled, &[endpoint("10.1.0.9", 1, 2), endpoint("10.1.0.8", 1, 0)], names)
    }

    fn names() -> Names {
        let mut names = Names::default()
            .with_pod("10.1.0.9", "shop", "db-0")
            .with_set(1, Direction::Ingress, &["db-access"])
            .with_set(2, Direction::Egress, &["no-egress"])
            .with_rule(100, "db-access", "pods app=web of namespace shop", "TCP 5432");
        let policy = |name: &str, ingress, egress| PolicyInfo {
            name: ObjectName::new("shop", name),
            selects: "app=db".into(),
            ingress,
            egress,
        };
        names.catalog.policies = vec![
            policy("db-access", Some(2), None),
            policy("elsewhere", Some(1), None),
            policy("no-egress", None, Some(0)),
        ];
        names
    }

    #[test]
    fn policies_are_listed_with_the_pods_they_isolate_and_what_they_compile_to() {
        assert_eq!(
            list(&names()).text(),
            "\
POLICY          SELECTS  INGRESS  EGRESS          PODS HERE
shop/db-access  app=db   2 rules  -               10.1.0.8, shop/db-0
shop/elsewhere  app=db   1 rule   -               -
shop/no-egress  app=db   -        allows nothing  shop/db-0

Compiled for the pods of this node

ISOLATED BY     DIRECTION  PODS                 ENTRIES  ALLOWED
shop/db-access  ingress    10.1.0.8, shop/db-0        3  rule 00000065
                                                         shop/db-access ingress rule 1 (from pods app=web of namespace shop, TCP 5432)
shop/no-egress  egress     shop/db-0                  0  nothing
"
        );
    }

    #[test]
    fn without_a_catalog_the_sets_are_listed_by_number() {
        let text = list(&Names::default()).text();
        assert!(text.starts_with("ISOLATED BY   DIRECTION  PODS"), "{text}");
        assert!(text.contains("\nset 00000002  egress     10.1.0.9"), "{text}");
    }

    #[test]
    fn the_json_of_a_set_counts_its_classes_and_entries() {
        let json = serde_json::to_value(list(&names())).unwrap();
        let rule = &json["sets"][0]["rules"][1];
        assert_eq!(
            (&rule["classes"], &rule["entries"], &rule["ports"][0]),
            (&2.into(), &2.into(), &"tcp 5432".into())
        );
        assert_eq!(json["policies"][1]["pods"], serde_json::json!([]));
    }
}
