//! Namespaces.
use agent_core::{
    model::{selector::Labels, workload},
    update::{Change, Kind, Update},
};
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::{
    Convert, Outcome, Problems,
    metadata::{self, resource, slim},
};

/// A Namespace, on the wire.
#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
}

resource!(Namespace, "", "v1", "namespaces", ClusterResourceScope);

/// The label that every namespace has: its own name. The API server sets it; manifests need not.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Convert for Namespace {
    type Model = workload::Namespace;
    const KIND: Kind = Kind::Namespace;

    fn convert(&self) -> Outcome<Self::Model> {
        let name = metadata::object_name(&self.metadata).name;
        Problems::of(self).skipped(named(&name, metadata::labels(&self.metadata)))
    }

    fn apply(model: Self::Model) -> Update {
        Update::Namespace(Change::Apply(model))
    }
}

/// A namespace with its name as a label.
#[must_use]
pub fn named(name: &str, mut labels: Labels) -> workload::Namespace {
    labels.insert(NAME_LABEL.to_owned(), name.to_owned());
    workload::Namespace { name: name.to_owned(), labels }
}

#[cfg(test)]
mod tests {
    use super::Namespace;
    use crate::convert::{Convert, Outcome};

    #[test]
    fn a_namespace_always_carries_its_name_as_a_label() {
        for labels in ["", "{kubernetes.io/metadata.name: other, team: red}", "null"] {
            let yaml = format!("{{metadata: {{name: shop, labels: {labels}}}}}");
            let namespace: Namespace = serde_saphyr::from_str(&yaml).unwrap();
            let Outcome::Usable { model, .. } = namespace.convert() else { panic!("{labels}") };
            assert_eq!(model.labels["kubernetes.io/metadata.name"], "shop", "{labels}");
            assert_eq!(model.labels.contains_key("team"), labels.contains("team"), "{labels}");
        }
    }
}
