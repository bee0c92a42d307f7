//! Object metadata: only name, namespace, uid, version, deletion, labels and three annotations are decoded; managed fields, the
//! other annotations and owners are skipped while parsing and never stored.
use std::{collections::BTreeMap, time::SystemTime};

use agent_core::model::{ObjectName, selector::Labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// On every static pod: the hash of its file, which its kubelet takes for its uid.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// On the object that a kubelet makes of a static pod: the same hash.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// On an EndpointSlice: when the pod or Service changed that made it change.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
}

/// The annotations in use.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash")]
    config_hash: Option<String>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    config_mirror: Option<String>,
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    trigger_time: Option<String>,
}

/// Decodes the metadata in use.
///
/// # Errors
/// When a field is of the wrong type.
pub fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Metadata { name, namespace, uid, resource_version, deletion_timestamp, labels, annotations } =
        Metadata::deserialize(deserializer)?;
    let annotations = annotations.and_then(|Annotations { config_hash, config_mirror, trigger_time }| {
        let pairs =
            [(CONFIG_HASH, config_hash), (CONFIG_MIRROR, config_mirror), (TRIGGER_TIME, trigger_time)];
        let present: BTreeMap<String, String> =
            pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        (!present.is_empty()).then_some(present)
    });
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels,
        annotations,
        ..ObjectMeta::default()
    })
}

/// What the kubelet of a static pod calls its uid, when the object is a mirror of one: it passes the hash of the file
/// to the runtime, while the API server gives the mirror a uid of its own.
#[must_use]
pub fn static_uids(metadata: &ObjectMeta) -> Vec<String> {
    let annotation = |key| metadata.annotations.as_ref()?.get(key).filter(|value| !value.is_empty());
    let Some(mirrored) = annotation(CONFIG_MIRROR) else { return Vec::new() };
    let mut uids = vec![mirrored.clone()];
    uids.extend(annotation(CONFIG_HASH).filter(|hash| *hash != mirrored).cloned());
    uids
}

/// When the pod or Service changed that made an EndpointSlice change.
#[must_use]
pub fn triggered(metadata: &ObjectMeta) -> Option<SystemTime> {
    let time = metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    time.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// Decodes `null` as the default: the API server's encoding of an absent list or object.
///
/// # Errors
/// When the value is of the wrong type.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Namespace and name; empty where the object has none.
#[must_use]
pub fn object_name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// The labels.
#[must_use]
pub fn labels(metadata: &ObjectMeta) -> Labels {
    metadata.labels.clone().unwrap_or_default()
}

/// The value of a label.
#[must_use]
pub fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Implements [`kube::Resource`] for a wire type.
macro_rules! resource {
    ($type:ident, $group:literal, $version:literal, $plural:literal, $scope:ident) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::$scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                stringify!($type).into()
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(super) use resource;
