//! NetworkPolicies, each rule with its id.
use std::{collections::BTreeMap, sync::Arc};

use dataplane_common::policy::Direction;

use super::selectors::SelectorIndex;
use crate::{
    ids::{IdTable, RuleId},
    model::{
        ObjectName,
        policy::{NetworkPolicy, PolicyRule},
        selector::LabelSelector,
        workload::Pod,
    },
    text,
    update::Change,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    records: BTreeMap<ObjectName, Record>,
    /// The policies of each namespace, by what they select.
    selecting: BTreeMap<String, SelectorIndex>,
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) policy: NetworkPolicy,
    ingress: Option<Arc<RuleList>>,
    egress: Option<Arc<RuleList>>,
}

/// The rules of one policy in one direction.
#[derive(Clone, Debug)]
pub(crate) struct RuleList {
    pub(crate) policy: ObjectName,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) body: PolicyRule,
}

/// What a change of a policy is about.
#[derive(Clone, Debug)]
pub(crate) struct PolicyChange {
    namespace: String,
    /// The selectors before and after.
    selectors: Vec<LabelSelector>,
}

impl PolicyChange {
    /// Whether the policy selected the pod before, or selects it now.
    pub(crate) fn concerns(&self, pod: &Pod) -> bool {
        pod.name.namespace == self.namespace
            && self.selectors.iter().any(|selector| selector.matches(&pod.labels))
    }
}

impl Record {
    /// The rules of a direction, when the policy isolates in it.
    pub(crate) fn rules(&self, direction: Direction) -> Option<&Arc<RuleList>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

impl Policies {
    /// Returns what the update changed, if it did.
    pub(crate) fn apply(
        &mut self,
        change: Change<NetworkPolicy, ObjectName>,
        ids: &mut IdTable,
    ) -> Option<PolicyChange> {
        let (name, new) = match change {
            Change::Apply(policy) => (policy.name.clone(), Some(policy)),
            Change::Delete(name) => (name, None),
        };
        if self.records.get(&name).map(|record| &record.policy) == new.as_ref() {
            return None;
        }
        let selector = new.as_ref().map(|policy| policy.pod_selector.clone());
        // New ids are taken before old ones are given back, so that a rule that stays keeps its id.
        let record = new.map(|policy| compile(policy, ids));
        let old = match record {
            Some(record) => self.records.insert(name.clone(), record),
            None => self.records.remove(&name),
        };
        for list in old.iter().flat_map(|record| [&record.ingress, &record.egress]).flatten() {
            list.release(ids);
        }
        let old = old.map(|record| record.policy.pod_selector);
        if old != selector {
            self.index(&name, old.as_ref(), selector.as_ref());
        }
        Some(PolicyChange { namespace: name.namespace, selectors: old.into_iter().chain(selector).collect() })
    }

    fn index(&mut self, name: &ObjectName, old: Option<&LabelSelector>, new: Option<&LabelSelector>) {
        let index = self.selecting.entry(name.namespace.clone()).or_default();
        if let Some(old) = old {
            index.remove(&name.name, old);
        }
        if let Some(new) = new {
            index.insert(&name.name, new);
        }
        if index.is_empty() {
            self.selecting.remove(&name.namespace);
        }
    }

    /// The policies that select a pod, by name.
    pub(crate) fn selecting(&self, pod: &Pod) -> Vec<&Record> {
        let namespace = &pod.name.namespace;
        let candidates = self.selecting.get(namespace).into_iter();
        let mut names: Vec<&str> = candidates.flat_map(|index| index.candidates(&pod.labels)).collect();
        names.sort_unstable();
        let records =
            names.into_iter().filter_map(|name| self.records.get(&ObjectName::new(namespace, name)));
        records.filter(|record| record.policy.pod_selector.matches(&pod.labels)).collect()
    }

    pub(crate) fn policies(&self) -> impl ExactSizeIterator<Item = &NetworkPolicy> {
        self.records.values().map(|record| &record.policy)
    }
}

impl RuleList {
    pub(crate) fn retain(&self, ids: &mut IdTable) {
        for rule in &self.rules {
            ids.retain(rule.id.0);
        }
    }

    pub(crate) fn release(&self, ids: &mut IdTable) {
        for rule in &self.rules {
            ids.release(rule.id.0);
        }
    }
}

fn compile(policy: NetworkPolicy, ids: &mut IdTable) -> Record {
    let mut list = |direction: &str, rules: Option<&Vec<PolicyRule>>| {
        rules.map(|rules| {
            let rules = rules.iter().enumerate().map(|(index, body)| Rule {
                id: RuleId(ids.acquire(&rule_text(&policy.name, direction, index, body))),
                body: body.clone(),
            });
            Arc::new(RuleList { policy: policy.name.clone(), rules: rules.collect() })
        })
    };
    let (ingress, egress) =
        (list("ingress", policy.ingress.as_ref()), list("egress", policy.egress.as_ref()));
    Record { policy, ingress, egress }
}

fn rule_text(policy: &ObjectName, direction: &str, index: usize, body: &PolicyRule) -> String {
    format!("{policy}:{direction}:{index}:{}:{}", text::peers(&body.peers), text::ports(&body.ports))
}
