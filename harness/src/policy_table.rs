//! The policy table of the Kubernetes end-to-end suite, as data: who may reach whom after each step.
//!
//! Read by a test with real connections and by one of the pure oracle.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use anyhow::{Context as _, Result, bail};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::Protocol;

const TABLE: &str = include_str!("policy_table.yaml");

/// Additional labels.
pub type Labels = BTreeMap<String, String>;

/// One spec of the suite.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub row: u32,
    pub name: String,
    pub pods: Vec<PodName>,
    pub ports: Vec<Port>,
    pub steps: Vec<Step>,
}

/// A change of the cluster, and what must not connect after it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    #[serde(default)]
    pub apply: Vec<Policy>,
    #[serde(default)]
    pub delete: Vec<String>,
    #[serde(default)]
    pub label_namespace: BTreeMap<String, Labels>,
    #[serde(default)]
    pub label_pod: BTreeMap<PodName, Labels>,
    blocked: BTreeMap<Port, Vec<String>>,
}

/// A `NetworkPolicy` whose spec may hold placeholders.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: String,
    #[serde(default = "subject_namespace")]
    pub namespace: String,
    spec: Value,
}

/// The namespace of a policy that does not name one.
fn subject_namespace() -> String {
    "x".to_owned()
}

/// A pod of the table: `x/a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

/// A port of the table: `80/TCP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

/// What placeholders stand for.
pub trait Places {
    /// The real name of a namespace of the table.
    fn namespace(&self, namespace: &str) -> String;
    /// The address of a pod in a family.
    fn address(&self, pod: &PodName, v6: bool) -> IpAddr;
}

/// The table.
pub fn rows() -> Result<Vec<Row>> {
    serde_saphyr::from_str(TABLE).context("parse the policy table")
}

impl Row {
    /// The ordered pairs of different pods.
    pub fn pairs(&self) -> impl Iterator<Item = (&PodName, &PodName)> {
        self.pods
            .iter()
            .flat_map(|from| self.pods.iter().map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
    }

    /// The pairs that must not connect on a port after a step.
    pub fn blocked(&self, step: &Step, port: Port) -> Result<BTreeSet<(PodName, PodName)>> {
        let mut blocked = BTreeSet::new();
        for expression in step.blocked.get(&port).into_iter().flatten() {
            let (from, to) =
                expression.split_once(" > ").with_context(|| format!("{expression:?} has no ` > `"))?;
            let (from, to) = (self.matching(from)?, self.matching(to)?);
            blocked.extend(
                self.pairs()
                    .filter(|(source, target)| from.contains(*source) && to.contains(*target))
                    .map(|(source, target)| (source.clone(), target.clone())),
            );
        }
        Ok(blocked)
    }

    /// The pods of the row in a list such as `x/*,y/a`.
    fn matching(&self, list: &str) -> Result<BTreeSet<PodName>> {
        let mut found = BTreeSet::new();
        for item in list.split(',') {
            let before = found.len();
            found.extend(
                self.pods
                    .iter()
                    .filter(|pod| {
                        item == "all" || item == pod.to_string() || item == format!("{}/*", pod.namespace)
                    })
                    .cloned(),
            );
            if found.len() == before {
                bail!("row {}: {item:?} is none of its pods", self.row);
            }
        }
        Ok(found)
    }
}

impl Step {
    /// The ports for which the step says something.
    pub fn blocked_ports(&self) -> impl Iterator<Item = &Port> {
        self.blocked.keys()
    }
}

impl Policy {
    /// The Kubernetes object, with placeholders filled in.
    pub fn object(&self, places: &impl Places) -> Result<Value> {
        let mut spec = self.spec.clone();
        fill_in(&mut spec, places)?;
        Ok(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "namespace": places.namespace(&self.namespace), "name": self.name },
            "spec": spec,
        }))
    }
}

/// Replaces the texts that begin with `$`.
fn fill_in(value: &mut Value, places: &impl Places) -> Result<()> {
    match value {
        Value::String(text) => {
            if let Some(placeholder) = text.strip_prefix('$') {
                *text = filled_in(placeholder, places)?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill_in(item, places)),
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill_in(field, places)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn filled_in(placeholder: &str, places: &impl Places) -> Result<String> {
    let Some((family, rest)) = placeholder.split_once('(') else { return Ok(places.namespace(placeholder)) };
    let (pod, length) = rest.split_once(")/").with_context(|| format!("{placeholder:?} has no `)/`"))?;
    let length = length.parse().with_context(|| format!("{placeholder:?} has no prefix length"))?;
    let v6 = match family {
        "v4" => false,
        "v6" => true,
        _ => bail!("{placeholder:?}: `{family}` is neither v4 nor v6"),
    };
    let address = places.address(&pod.to_owned().try_into()?, v6);
    let network =
        IpNetwork::new(address, length).with_context(|| format!("{placeholder:?} is no network"))?;
    Ok(format!("{}/{length}", network.network()))
}

impl TryFrom<String> for PodName {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let (namespace, name) =
            text.split_once('/').with_context(|| format!("{text:?} is not NAMESPACE/NAME"))?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl TryFrom<String> for Port {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let (number, protocol) =
            text.split_once('/').with_context(|| format!("{text:?} is not PORT/PROTOCOL"))?;
        let protocol = match protocol {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => bail!("{text:?}: the protocol is neither TCP nor UDP"),
        };
        Ok(Self { number: number.parse().with_context(|| format!("{text:?} has no port"))?, protocol })
    }
}

impl Port {
    /// The name of the container port that serves this.
    #[must_use]
    pub fn name(self) -> String {
        format!("serve-{}-{}", self.number, self.protocol).to_lowercase()
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example;

    impl Places for Example {
        fn namespace(&self, namespace: &str) -> String {
            format!("{namespace}-7")
        }

        fn address(&self, _pod: &PodName, v6: bool) -> IpAddr {
            if v6 { "fd00:10:244:1::5".parse() } else { "10.244.1.5".parse() }.expect("an address")
        }
    }

    #[test]
    fn the_table_has_every_tcp_and_udp_spec_once() -> Result<()> {
        let mut numbers: Vec<u32> = rows()?.iter().map(|row| row.row).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=46).collect::<Vec<_>>());
        Ok(())
    }

    /// The suite has 66 validations with 715 probes. Its SCTP specs, which are not here, mirror the UDP ones; the
    /// second step of row 15 probes both ports here (5 × 5 probes more).
    #[test]
    fn the_table_has_the_validations_and_probes_of_the_suite() -> Result<()> {
        let (mut validations, mut probes) = (0, 0);
        for row in rows()? {
            let times = if (44..=46).contains(&row.row) { 2 } else { 1 };
            let count = times * row.steps.len() * row.ports.len();
            validations += count;
            probes += count * row.pods.len() * row.pods.len();
        }
        assert_eq!((validations, probes), (66 + 1, 715 + 25));
        Ok(())
    }

    #[test]
    fn every_expression_of_the_table_names_pods_and_ports_of_its_row() -> Result<()> {
        for row in rows()? {
            for step in &row.steps {
                for port in step.blocked_ports() {
                    assert!(row.ports.contains(port), "row {}: {port} is not probed", row.row);
                    assert!(!row.blocked(step, *port)?.is_empty(), "row {}: {port}", row.row);
                }
                for policy in &step.apply {
                    let text = policy.object(&Example)?.to_string();
                    assert!(!text.contains('$'), "row {}: {text}", row.row);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn default_deny_blocks_six_of_twelve_pairs() -> Result<()> {
        let rows = rows()?;
        let row = &rows[0];
        assert_eq!(row.pairs().count(), 12);
        assert_eq!(row.blocked(&row.steps[0], row.ports[0])?.len(), 6);
        Ok(())
    }

    #[test]
    fn placeholders_become_names_and_canonical_networks() -> Result<()> {
        assert_eq!(filled_in("y", &Example)?, "y-7");
        assert_eq!(filled_in("v4(x/b)/4", &Example)?, "0.0.0.0/4");
        assert_eq!(filled_in("v6(x/b)/4", &Example)?, "f000::/4");
        assert_eq!(filled_in("v4(x/b)/32", &Example)?, "10.244.1.5/32");
        Ok(())
    }
}
