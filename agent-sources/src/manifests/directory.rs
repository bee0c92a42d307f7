//! Reads the files of the directory that changed.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::settle::{Ready, is_manifest};
use crate::source::SourceError;

/// A file that changed less than this ago may be in the middle of being written, unknown to us.
const FRESH: Duration = Duration::from_millis(20);

/// A directory and what is known of its files.
pub struct Directory {
    path: PathBuf,
    watcher: RecommendedWatcher,
    /// The directory that is watched, to notice when another takes its path.
    watched: Option<Identity>,
    files: BTreeMap<String, Signature>,
    /// The first comparison reads everything: until then nothing is in sync.
    begun: bool,
}

/// Device and inode.
type Identity = (u64, u64);

/// Changes whenever the content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    identity: Identity,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        }
    }
}

/// What reading found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Why the directory cannot be read; `None` when it can.
    pub unreadable: Option<String>,
    /// Files that changed: their text, or why they cannot be read; `None` when they are gone.
    pub files: BTreeMap<String, Option<Result<String, String>>>,
    /// Files that changed just now: whether their writer is done, its notification will say.
    pub fresh: BTreeSet<String>,
    /// The whole directory was read.
    pub complete: bool,
}

impl Directory {
    /// Watches a directory.
    ///
    /// # Errors
    /// When it is missing, is none, or cannot be watched.
    pub fn open(
        path: &Path,
        notify: impl Fn(notify::Result<notify::Event>) + Send + 'static,
    ) -> Result<Self, SourceError> {
        let metadata = fs::metadata(path).map_err(SourceError::directory(path))?;
        if !metadata.is_dir() {
            return Err(SourceError::NotADirectory { path: path.to_owned() });
        }
        fs::read_dir(path).map_err(SourceError::directory(path))?;
        let notify_error = |source| SourceError::Notify { path: path.to_owned(), source };
        let mut watcher = notify::recommended_watcher(notify).map_err(notify_error)?;
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(notify_error)?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self {
            path: path.to_owned(),
            watcher,
            watched: Some(identity),
            files: BTreeMap::new(),
            begun: false,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is ready. A whole comparison leaves unsettled files for later.
    pub fn read(&mut self, ready: &Ready, is_unsettled: impl Fn(&str) -> bool) -> Findings {
        // The first reading is of everything, also when the directory was away for a while.
        let everything = ready.everything || !self.begun;
        let mut findings = Findings { complete: everything, ..Findings::default() };
        let mut names = ready.files.clone();
        if everything {
            match self.compare() {
                Ok(changed) => {
                    // A file that the first reading left out would count as deleted.
                    let settled = changed.into_iter().filter(|name| !self.begun || !is_unsettled(name));
                    let (fresh, settled): (BTreeSet<_>, BTreeSet<_>) =
                        settled.partition(|name| self.begun && self.is_fresh(name));
                    findings.fresh = fresh;
                    names.extend(settled);
                    self.begun = true;
                }
                Err(error) => {
                    self.watched = None;
                    let path = self.path.display();
                    findings.unreadable = Some(format!(
                        "manifests directory {path}: cannot be read ({error}); restore it: until then what it said \
                         stays in force"
                    ));
                    // Files that vanished with their directory are not deleted: nobody said so.
                    return findings;
                }
            }
        }
        for name in names {
            let text = self.read_file(&name);
            findings.files.insert(name, text);
        }
        findings
    }

    fn is_fresh(&self, name: &str) -> bool {
        let changed = fs::metadata(self.path.join(name)).and_then(|metadata| metadata.modified());
        changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH))
    }

    /// Names of files that differ from what is known.
    fn compare(&mut self) -> io::Result<BTreeSet<String>> {
        let metadata = fs::metadata(&self.path)?;
        let identity = Some((metadata.dev(), metadata.ino()));
        if identity != self.watched {
            // The old watch went with the old directory: there may be nothing to end.
            let _ = self.watcher.unwatch(&self.path);
            self.watcher.watch(&self.path, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
            self.watched = identity;
        }
        let mut changed = BTreeSet::new();
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if !is_manifest(&name) {
                continue;
            }
            let signature = fs::metadata(self.path.join(&name)).map(|metadata| Signature::of(&metadata)).ok();
            // A file that cannot be examined may be there all the same: reading it tells.
            if signature.is_none() || signature != self.files.get(&name).copied() {
                changed.insert(name.clone());
            }
            listed.insert(name);
        }
        changed.extend(self.files.keys().filter(|name| !listed.contains(*name)).cloned());
        Ok(changed)
    }

    fn read_file(&mut self, name: &str) -> Option<Result<String, String>> {
        let path = self.path.join(name);
        let read = fs::metadata(&path).and_then(|metadata| {
            self.files.insert(name.to_owned(), Signature::of(&metadata));
            fs::read_to_string(&path)
        });
        match read {
            Ok(text) => Some(Ok(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(name);
                None
            }
            Err(error) => Some(Err(format!(
                "manifest {name}: cannot be read ({error}); make it a readable file of UTF-8 text"
            ))),
        }
    }
}
