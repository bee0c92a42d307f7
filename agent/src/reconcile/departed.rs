//! Remembers on disk the pods whose objects are gone while their interfaces are still there, so that a restarted agent
//! goes on selecting them by their last labels.
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use agent_api::disk;
use agent_core::model::workload::DepartedPod;

use super::Reconciler;
use crate::health::Problems;

/// In the state directory.
const FILE_NAME: &str = "departed.json";

/// What problems with the file are filed under.
const SUBJECT: &str = "departed pods";

/// The file.
#[derive(Debug)]
pub(super) struct DepartedFile {
    path: PathBuf,
    /// What it holds.
    content: Vec<DepartedPod>,
}

impl DepartedFile {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE_NAME), content: Vec::new() }
    }

    fn read(&self) -> io::Result<Vec<DepartedPod>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn keep(&mut self, departed: Vec<DepartedPod>, problems: &Problems) {
        match replace(&self.path, &departed) {
            Ok(()) => {
                self.content = departed;
                problems.resolve(SUBJECT);
            }
            Err(error) => problems.report(
                SUBJECT,
                &format!(
                    "cannot write {}, so pods without an object are closed when the agent restarts: {error}",
                    self.path.display()
                ),
            ),
        }
    }
}

fn replace(path: &Path, departed: &[DepartedPod]) -> io::Result<()> {
    disk::replace(path, &serde_json::to_vec(departed)?, 0o644)
}

impl Reconciler {
    /// Takes over what the run before remembered. Comes after its endpoints.
    pub(crate) fn recall_departed(&mut self) {
        match self.departed.read() {
            Ok(departed) => {
                self.departed.content.clone_from(&departed);
                for departed in departed {
                    self.state.restore_departed(departed);
                }
            }
            Err(error) => self.problems.report(
                SUBJECT,
                &format!(
                    "cannot read {}, so pods without an object are closed: {error}",
                    self.departed.path.display()
                ),
            ),
        }
    }

    /// Writes the file when it is out of date, once the sources have said which pods there are.
    pub(super) fn remember_departed(&mut self) {
        let is_current = self.state.departed().eq(&self.departed.content);
        if self.state.is_synced() && !is_current {
            self.departed.keep(self.state.departed().cloned().collect(), &self.problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{ObjectName, endpoint::AttachmentId, workload::Pod};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_a_missing_file_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = DepartedFile::new(directory.path());
        assert_eq!(file.read().unwrap(), []);
        let departed = DepartedPod {
            attachment: AttachmentId { container_id: "c".into(), ifname: "eth0".into() },
            pod: Pod {
                name: ObjectName::new("x", "a"),
                uid: "u".into(),
                static_uids: Vec::new(),
                labels: [("app".to_owned(), "a".to_owned())].into(),
                node_name: None,
                host_network: false,
                ips: vec!["10.1.0.1".parse().unwrap()],
                completed: false,
                ports: Vec::new(),
            },
            isolated_ingress: true,
            isolated_egress: false,
        };
        file.keep(vec![departed.clone()], &Problems::default());
        assert_eq!(file.read().unwrap(), [departed]);
        fs::write(&file.path, "[{").unwrap();
        assert!(file.read().is_err());
    }
}
