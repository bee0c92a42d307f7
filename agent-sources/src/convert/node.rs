//! Nodes.
use agent_core::{
    model::node::{self, SERVICES_LABEL, UnknownServices},
    update::{Change, Kind, Update},
};
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::{
    Convert, Outcome, Problems, address,
    metadata::{self, or_default, resource, slim},
};

/// The cluster autoscaler puts it on a node that it is about to delete.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

const SERVICES_REMEDY: &str = "correct the label; until then the agent's --services counts";

/// A Node, on the wire.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs", deserialize_with = "or_default")]
    pod_cidrs: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Taint {
    #[serde(default)]
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

resource!(Node, "", "v1", "nodes", ClusterResourceScope);

impl Convert for Node {
    type Model = node::Node;
    const KIND: Kind = Kind::Node;

    fn convert(&self) -> Outcome<Self::Model> {
        let mut problems = Problems::of(self);
        let mut model = node::Node {
            name: metadata::object_name(&self.metadata).name,
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            services: None,
            is_leaving: self.metadata.deletion_timestamp.is_some()
                || self.spec.taints.iter().any(|taint| taint.key == LEAVING_TAINT),
        };
        for (index, wire) in
            self.status.addresses.iter().enumerate().filter(|(_, a)| a.r#type == "InternalIP")
        {
            let field = format!("status.addresses[{index}].address");
            let parsed = address::address(&wire.address);
            model.addresses.extend(problems.check(&field, parsed, address::ADDRESS_REMEDY));
        }
        // `podCIDR` repeats the first of `podCIDRs`; hand-written nodes often have only the former.
        let ranges = match &self.spec.pod_cidr {
            Some(range) if self.spec.pod_cidrs.is_empty() && !range.is_empty() => std::slice::from_ref(range),
            _ => &self.spec.pod_cidrs,
        };
        for (index, text) in ranges.iter().enumerate() {
            let field = format!("spec.podCIDRs[{index}]");
            model.pod_cidrs.extend(problems.check(&field, address::range(text), address::RANGE_REMEDY));
        }
        if let Some(name) = metadata::label(&self.metadata, SERVICES_LABEL) {
            let parsed = name.parse().map_err(|error: UnknownServices| format!("{name:?} {error}"));
            let field = format!("metadata.labels[{SERVICES_LABEL}]");
            model.services = problems.check(&field, parsed, SERVICES_REMEDY);
        }
        problems.skipped(model)
    }

    fn apply(model: Self::Model) -> Update {
        Update::Node(Change::Apply(model))
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::node::Services;

    use super::Node;
    use crate::convert::{Convert, Outcome};

    fn convert(yaml: &str) -> (String, String, usize) {
        let node: Node = serde_saphyr::from_str(yaml).unwrap();
        let Outcome::Usable { model, skipped } = node.convert() else { panic!("{yaml}") };
        (format!("{:?}", model.addresses), format!("{:?}", model.pod_cidrs), skipped.len())
    }

    #[test]
    fn internal_addresses_and_pod_ranges_of_both_families_are_read() {
        let (addresses, ranges, skipped) = convert(
            "metadata: {name: n1}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1},
  {type: InternalIP, address: 'FD00::1'}, {type: ExternalIP, address: 203.0.113.1}]}",
        );
        assert_eq!(addresses, "[192.0.2.1, fd00::1]");
        assert!(ranges.contains("10.1.0.0") && ranges.contains("fd00:1::"), "{ranges}");
        assert_eq!(skipped, 0);
    }

    #[test]
    fn the_single_pod_range_counts_when_the_list_is_absent() {
        let (_, ranges, _) = convert("{metadata: {name: n1}, spec: {podCIDR: 10.1.0.0/24}}");
        assert!(ranges.contains("10.1.0.0"), "{ranges}");
    }

    #[test]
    fn the_label_chooses_who_translates_services() {
        let services = |label: &str| {
            let yaml = format!("{{metadata: {{name: n1, labels: {{millrace.io/services: {label}}}}}}}");
            let node: Node = serde_saphyr::from_str(&yaml).unwrap();
            let Outcome::Usable { model, skipped } = node.convert() else { panic!("{yaml}") };
            (model.services, skipped.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(services("kube-proxy"), (Some(Services::KubeProxy), vec![]));
        let (none, skipped) = services("ipvs");
        assert!(none.is_none() && skipped[0].contains("millrace.io/services"), "{skipped:?}");
    }

    #[test]
    fn a_node_that_is_being_deleted_or_drained_for_it_is_leaving() {
        for (yaml, expected) in [
            ("{metadata: {name: n1}}", false),
            ("{metadata: {name: n1}, spec: {taints: null}}", false),
            ("{metadata: {name: n1}, spec: {taints: [{key: other, effect: NoSchedule}]}}", false),
            (
                "{metadata: {name: n1}, spec: {taints: [{key: a}, {key: ToBeDeletedByClusterAutoscaler}]}}",
                true,
            ),
            ("{metadata: {name: n1, deletionTimestamp: '2026-01-02T03:04:05Z'}}", true),
        ] {
            let node: Node = serde_saphyr::from_str(yaml).unwrap();
            let Outcome::Usable { model, .. } = node.convert() else { panic!("{yaml}") };
            assert_eq!(model.is_leaving, expected, "{yaml}");
        }
    }

    #[test]
    fn a_bad_range_is_skipped_and_reported() {
        let (_, ranges, skipped) =
            convert("{metadata: {name: n1}, spec: {podCIDRs: [10.1.0.0, 10.2.0.0/24]}}");
        assert!(ranges.contains("10.2.0.0") && !ranges.contains("10.1.0.0"), "{ranges}");
        assert_eq!(skipped, 1);
    }
}
