//! The names behind the numbers in the maps, for the CLI, which must work with the agent dead.
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agent_api::disk;
use agent_core::{
    catalog::{FILE_NAME, catalog},
    render::Desired,
    state::ClusterState,
};

use super::former::Sets;
use crate::health::Problems;

/// Time between two writes: the catalog names everything, so it must not be written for each of many changes.
const PAUSE: Duration = Duration::from_secs(1);

/// What problems with the file are filed under.
const SUBJECT: &str = "catalog";

/// `catalog.json` in the runtime directory.
#[derive(Debug)]
pub(super) struct CatalogFile {
    path: PathBuf,
    node_name: String,
    sets: Sets,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl CatalogFile {
    pub(super) fn new(runtime_dir: &Path, node_name: &str) -> Self {
        let path = runtime_dir.join(FILE_NAME);
        // What cannot be read is only for people, and written anew.
        let before = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let sets = Sets::of(before.unwrap_or_default());
        Self { path, node_name: node_name.to_owned(), sets, last: None, due: None }
    }

    /// When the file is to be written; `None` when it is up to date.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Names may change with the maps: writes the file now, so that no number in the maps is ever without a name,
    /// or a moment later, when it was written just before.
    pub(super) fn changed(&mut self, state: &ClusterState, desired: &Desired, problems: &Problems) {
        let now = Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sets.follow(desired, since_epoch.as_secs());
        self.due.get_or_insert_with(|| self.last.map_or(now, |last| last + PAUSE));
        self.write_if_due(state, now, false, problems);
    }

    /// Writes the file when it is time, or at once when somebody is about to read it.
    pub(super) fn write_if_due(
        &mut self,
        state: &ClusterState,
        now: Instant,
        is_awaited: bool,
        problems: &Problems,
    ) {
        if self.due.is_none_or(|due| due > now && !is_awaited) {
            return;
        }
        self.due = None;
        self.last = Some(now);
        match self.write(state) {
            Ok(()) => problems.resolve(SUBJECT),
            Err(error) => {
                self.due = Some(now + PAUSE);
                let path = self.path.display();
                problems.report(
                    SUBJECT,
                    &format!("cannot write {path}, so the CLI shows numbers for names: {error}"),
                );
            }
        }
    }

    /// Replaces the file: a reader sees the old one or the new one, whole.
    fn write(&mut self, state: &ClusterState) -> io::Result<()> {
        let mut catalog = catalog(state, &self.node_name);
        catalog.former_sets.clone_from(self.sets.former());
        let content = serde_json::to_vec(&catalog)?;
        disk::replace(&self.path, &content, 0o644)
    }
}
