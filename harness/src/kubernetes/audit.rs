//! What the agents asked of the API server, from its audit log.
use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Cluster;

/// As much of a note as is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    #[serde(rename = "auditID")]
    id: String,
    verb: String,
    #[serde(rename = "sourceIPs")]
    source_ips: Vec<String>,
    object_ref: Option<ObjectRef>,
}

#[derive(Deserialize)]
struct ObjectRef {
    resource: String,
}

/// Numbers of requests, by address of the node, verb and resource.
pub type Requests = BTreeMap<(String, String, String), usize>;

impl Cluster {
    /// How long the audit log is: where notes begin that are not there yet.
    pub fn audit_position(&self) -> Result<usize> {
        self.audit_log().map(|log| log.len())
    }

    /// The agents' requests that were noted after a position.
    pub fn requests_since(&self, position: usize) -> Result<Requests> {
        let log = self.audit_log()?;
        let mut by_id = BTreeMap::new();
        // The last line may be half written.
        let whole =
            log.get(position..).and_then(|notes| notes.rsplit_once('\n')).map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let note: Note = serde_json::from_str(line).with_context(|| format!("a note: {line}"))?;
            let resource = note.object_ref.map_or_else(String::new, |object| object.resource);
            let source = note.source_ips.into_iter().next().unwrap_or_default();
            // A watch is noted at its beginning and at its end.
            by_id.insert(note.id, (source, note.verb, resource));
        }
        let mut requests = Requests::new();
        for request in by_id.into_values() {
            *requests.entry(request).or_default() += 1;
        }
        Ok(requests)
    }

    fn audit_log(&self) -> Result<String> {
        let path = self.plane().audit_log();
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }
}
