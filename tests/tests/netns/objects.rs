//! Objects of the cluster that many tests apply.
use serde_json::{Value, json};

/// A NetworkPolicy of the namespace `default`.
pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": name },
        "spec": spec,
    })
}
