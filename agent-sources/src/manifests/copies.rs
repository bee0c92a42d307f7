//! The last good content of each file, on disk: what is in force when a file is broken while the agent starts.
//!
//! One file each, named like the manifest: a comment with length and checksum, then the text.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use agent_api::{disk, interface::fnv1a};
use tokio::sync::mpsc::Sender;

use super::{document, settle::is_manifest};
use crate::source::{Batch, Event, Report, Subject};

/// A copy that could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// Copies by file name: the text, or why it cannot be used.
pub type Loaded = BTreeMap<String, Result<String, String>>;

/// What a file says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it can be used.
    Good(String),
    /// It holds objects that cannot be used, whose last good version stays in force.
    PartlyGood(String),
    /// The file was deleted.
    Gone,
}

/// Why a copy cannot be used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("its length or its checksum is wrong")]
    Checksum,
}

/// The folder of the copies.
#[derive(Debug)]
pub struct Copies {
    dir: PathBuf,
    /// Checksums of the texts that are on disk.
    kept: BTreeMap<String, u64>,
    /// Texts to be written; `None` for copies to be removed.
    due: BTreeMap<String, Option<String>>,
    problem: Option<String>,
    reported: Option<String>,
}

impl Copies {
    /// Reads all copies. A folder that is not there is empty.
    #[must_use]
    pub fn open(dir: &Path) -> (Self, Loaded) {
        let mut copies = Self {
            dir: dir.to_owned(),
            kept: BTreeMap::new(),
            due: BTreeMap::new(),
            problem: None,
            reported: None,
        };
        let loaded = copies.load().unwrap_or_else(|error| {
            copies.problem = Some(format!(
                "copies of manifests in {}: cannot be read ({error}); check --state-dir: a manifest that was broken \
                 when the agent started is ignored until it is mended",
                dir.display()
            ));
            Loaded::new()
        });
        (copies, loaded)
    }

    fn load(&mut self) -> io::Result<Loaded> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::new()),
            entries => entries?,
        };
        let mut loaded = Loaded::new();
        for entry in entries {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if !is_manifest(&name) {
                continue;
            }
            let copy = self.read(&name);
            if let Ok(text) = &copy {
                self.kept.insert(name.clone(), checksum(text));
            }
            loaded.insert(name, copy.map_err(|damage| damage.to_string()));
        }
        Ok(loaded)
    }

    /// Takes changes in until their sender is gone; reports what cannot be kept, and tries it again.
    pub fn follow(mut self, changes: &Receiver<BTreeMap<String, Content>>, events: &Sender<Event>) {
        loop {
            if let Some(report) = self.save() {
                let batch = Batch { reports: vec![report], ..Batch::default() };
                // Without a receiver nobody reads reports, and the changes end soon.
                let _ = events.blocking_send(Event { seen: Instant::now(), batch });
            }
            let next = if self.due.is_empty() {
                changes.recv().map_err(RecvTimeoutError::from)
            } else {
                changes.recv_timeout(RETRY)
            };
            match next {
                Ok(first) => {
                    std::iter::once(first).chain(changes.try_iter()).for_each(|next| self.take(next));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Notes what is to be written.
    fn take(&mut self, changes: BTreeMap<String, Content>) {
        for (name, content) in changes {
            let text = match content {
                Content::Good(text) => Some(text),
                Content::PartlyGood(text) => {
                    let earlier = match self.due.remove(&name) {
                        Some(earlier) => earlier,
                        // What cannot be read holds no good version.
                        None => self.read(&name).ok(),
                    };
                    Some(document::mend(&text, &earlier.unwrap_or_default()))
                }
                Content::Gone => None,
            };
            self.due.insert(name, text);
        }
    }

    /// Writes what is due. Returns the report when it differs from the one before.
    fn save(&mut self) -> Option<Report> {
        let mut failures = Vec::new();
        let tried_any = !self.due.is_empty();
        for (name, text) in std::mem::take(&mut self.due) {
            let saved = match &text {
                Some(text) => self.keep(&name, text),
                None => self.remove(&name),
            };
            if let Err(error) = saved {
                failures.push(format!("{name} ({error})"));
                self.due.insert(name, text);
            }
        }
        if tried_any {
            self.problem = failures.first().map(|first| {
                let others = match failures.len() - 1 {
                    0 => String::new(),
                    count => format!(" and {count} more"),
                };
                format!(
                    "copies of manifests in {}: cannot write {first}{others}; check free space and permissions of \
                     --state-dir: until then an agent that starts while the file is broken does not know what it \
                     said before",
                    self.dir.display()
                )
            });
        }
        if self.problem == self.reported {
            return None;
        }
        self.reported.clone_from(&self.problem);
        Some(Report { subject: Subject::Copies, problems: self.problem.iter().cloned().collect() })
    }

    fn keep(&mut self, name: &str, text: &str) -> io::Result<()> {
        let checksum = checksum(text);
        if self.kept.get(name) == Some(&checksum) {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let content = format!("{}\n{text}", header(text));
        disk::replace(&self.dir.join(name), content.as_bytes(), 0o600)?;
        self.kept.insert(name.to_owned(), checksum);
        Ok(())
    }

    /// Removing what is gone is success.
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.kept.remove(name);
        if disk::remove(&self.dir.join(name))? {
            fs::File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String, Damage> {
        let copy = fs::read_to_string(self.dir.join(name))?;
        let (first_line, text) = copy.split_once('\n').ok_or(Damage::Checksum)?;
        if first_line == header(text) { Ok(text.to_owned()) } else { Err(Damage::Checksum) }
    }
}

fn checksum(text: &str) -> u64 {
    fnv1a(&[text.as_bytes()])
}

fn header(text: &str) -> String {
    format!("# copy of a manifest: {} bytes, checksum {:016x}", text.len(), checksum(text))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::{Content, Copies};

    fn save(copies: &mut Copies, name: &str, content: Content) -> Option<Vec<String>> {
        copies.take([(name.to_owned(), content)].into());
        copies.save().map(|report| report.problems)
    }

    fn good(text: &str) -> Content {
        Content::Good(text.to_owned())
    }

    fn loaded(dir: &Path, name: &str) -> Option<Result<String, String>> {
        Copies::open(dir).1.remove(name)
    }

    #[test]
    fn what_is_kept_is_loaded_and_what_is_gone_is_not() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("manifests");
        let (mut copies, none) = Copies::open(&dir);
        assert!(none.is_empty());
        assert_eq!(save(&mut copies, "a.yaml", good("first")), None);
        assert_eq!(save(&mut copies, "a.yaml", good("second\n")), None);
        assert_eq!(save(&mut copies, "b.json", good("")), None);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let (mut copies, all) = Copies::open(&dir);
        let expected =
            [("a.yaml".to_owned(), Ok("second\n".to_owned())), ("b.json".to_owned(), Ok(String::new()))];
        assert_eq!(Vec::from_iter(all), expected);
        assert_eq!(save(&mut copies, "a.yaml", Content::Gone), None);
        assert_eq!(save(&mut copies, "a.yaml", Content::Gone), None);
        assert_eq!(loaded(&dir, "a.yaml"), None);
    }

    #[test]
    fn an_equal_text_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        save(&mut Copies::open(dir.path()).0, "a.yaml", good("text"));
        let modified = || fs::metadata(dir.path().join("a.yaml")).unwrap().modified().unwrap();
        let before = modified();
        let mut copies = Copies::open(dir.path()).0;
        save(&mut copies, "a.yaml", good("text"));
        assert_eq!(modified(), before);
        save(&mut copies, "a.yaml", good("other"));
        assert_ne!(modified(), before);
    }

    #[test]
    fn a_copy_cut_at_any_byte_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        save(&mut Copies::open(dir.path()).0, "a.yaml", good("kind: Pod\n---\nkind: Node\n"));
        let path = dir.path().join("a.yaml");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(loaded(dir.path(), "a.yaml"), Some(Err(_))), "cut at {length}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_until_it_can() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("manifests");
        fs::write(&dir, "in the way").unwrap();
        let (mut copies, _) = Copies::open(&dir);
        let unreadable = copies.save().unwrap().problems;
        assert!(unreadable[0].contains("cannot be read"), "{unreadable:?}");
        save(&mut copies, "a.yaml", good("a"));
        let unwritable = save(&mut copies, "b.yaml", good("b")).unwrap();
        assert!(unwritable[0].contains("cannot write a.yaml"), "{unwritable:?}");
        assert!(unwritable[0].contains("and 1 more; check free space"), "{unwritable:?}");
        assert_eq!(copies.save(), None, "the same report once");
        fs::remove_file(&dir).unwrap();
        assert_eq!(copies.save().map(|report| report.problems), Some(Vec::new()));
        assert_eq!(loaded(&dir, "a.yaml"), Some(Ok("a".to_owned())));
    }
}
