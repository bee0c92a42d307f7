//! NetworkPolicies.
//!
//! A policy that cannot be honoured in full is never widened: it isolates the pods that it selects, and an item
//! that makes no sense matches nothing.
use agent_core::{
    model::{policy, selector::LabelSelector},
    update::{Change, Kind, Update},
};
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::{
    Convert, Outcome, Problems,
    metadata::{self, or_default, resource, slim},
    policy_rule::{Direction, Rule},
    selector::{self, Selector, UnknownFields},
};

/// A NetworkPolicy, on the wire.
#[derive(Clone, Debug, Deserialize)]
pub struct NetworkPolicy {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, deserialize_with = "or_default")]
    pod_selector: Selector,
    #[serde(default, deserialize_with = "or_default")]
    policy_types: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    ingress: Vec<Rule>,
    #[serde(default, deserialize_with = "or_default")]
    egress: Vec<Rule>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

resource!(NetworkPolicy, "networking.k8s.io", "v1", "networkpolicies", NamespaceResourceScope);

impl Convert for NetworkPolicy {
    type Model = policy::NetworkPolicy;
    const KIND: Kind = Kind::NetworkPolicy;

    fn convert(&self) -> Outcome<Self::Model> {
        let mut problems = Problems::of(self);
        self.spec.unknown.note("spec", &mut problems);
        let Some(pod_selector) =
            selector::convert(&self.spec.pod_selector, "spec.podSelector", &mut problems)
        else {
            return problems.nothing();
        };
        let model = self.model(pod_selector, &mut problems);
        problems.stand_in(model)
    }

    fn apply(model: Self::Model) -> Update {
        Update::NetworkPolicy(Change::Apply(model))
    }
}

impl NetworkPolicy {
    fn model(&self, pod_selector: LabelSelector, problems: &mut Problems) -> policy::NetworkPolicy {
        let name = metadata::object_name(&self.metadata);
        let (ingress, egress) = self.spec.directions(problems);
        let mut rules = |direction: Direction, wire: &[Rule]| {
            let convert =
                |(index, rule): (usize, &Rule)| rule.convert(direction, index, &name.namespace, problems);
            wire.iter().enumerate().map(convert).collect()
        };
        policy::NetworkPolicy {
            pod_selector,
            ingress: ingress.then(|| rules(Direction::Ingress, &self.spec.ingress)),
            egress: egress.then(|| rules(Direction::Egress, &self.spec.egress)),
            name,
        }
    }
}

impl Spec {
    /// Whether the policy isolates for ingress, and for egress.
    fn directions(&self, problems: &mut Problems) -> (bool, bool) {
        if self.policy_types.is_empty() {
            return (true, !self.egress.is_empty());
        }
        let (mut ingress, mut egress) = (false, false);
        for (index, name) in self.policy_types.iter().enumerate() {
            match name.as_str() {
                "Ingress" => ingress = true,
                "Egress" => egress = true,
                other => {
                    let problem = format!("is {other:?}, which is no known direction");
                    problems.note(format!("spec.policyTypes[{index}]"), problem, "use Ingress or Egress");
                    (ingress, egress) = (true, true);
                }
            }
        }
        (ingress, egress)
    }
}

#[cfg(test)]
#[path = "network_policy_tests.rs"]
mod tests;
