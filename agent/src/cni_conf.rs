//! The CNI configuration: the file that makes the container runtime call the plugin. It appears when the node can serve
//! pods, not before, and stays from then on: without an agent the plugin asks to be tried again.
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_api::disk;
use serde_json::json;

use crate::health::Problems;

/// Sorts before the names that others use: the runtime takes the first file of the directory.
const FILE_NAME: &str = "05-millrace.conflist";
/// What runtimes read.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// The plugin, as the runtime finds it in its directory of plugins.
pub(crate) const PLUGIN: &str = "millrace-cni";

/// How often the directory is looked at: others may put a file of theirs there, or remove ours.
const INTERVAL: Duration = Duration::from_secs(10);

/// What problems with the file are filed under.
const SUBJECT: &str = "CNI configuration";
/// What files of others are filed under.
const OTHERS: &str = "CNI configuration of others";

/// Why the runtime does not call the plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniConfError {
    #[error(
        "cannot read {}: it must be the directory where the container runtime reads its CNI configuration; correct \
         --cni-conf-dir",
        .path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "cannot write {}: the container runtime would not call Millrace; make the directory writable for root, or name \
         the one that the runtime reads with --cni-conf-dir",
        .path.display()
    )]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", .path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error(
        "the container runtime uses {} and not Millrace, because that name comes before {FILE_NAME}: remove the other \
         CNI from this node, or give its file a later name",
        .path.display()
    )]
    Shadowed { path: PathBuf },
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(crate) struct CniConf {
    /// `None`: somebody else tells the runtime.
    dir: Option<PathBuf>,
    content: String,
    /// When to look again; `None` before the node could serve pods for the first time.
    due: Option<Instant>,
    unmet: Option<String>,
}

impl CniConf {
    pub(crate) fn new(dir: Option<PathBuf>, runtime_dir: &Path, state_dir: &Path) -> Self {
        Self { dir, content: content(runtime_dir, state_dir), due: None, unmet: None }
    }

    /// When to look at the directory again.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the node must show that it can serve pods before the file is written.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.dir.is_some() && self.due.is_none()
    }

    /// Why the runtime does not call the plugin, if it does not.
    pub(crate) fn unmet(&self) -> Option<&str> {
        self.unmet.as_deref()
    }

    /// Puts the file there and looks at those of others. To be called when the node can serve pods, and when due.
    pub(crate) fn keep(&mut self, now: Instant, problems: &Problems) {
        let Some(dir) = &self.dir else { return };
        self.due = Some(now + INTERVAL);
        match place(dir, &self.content) {
            Ok(others) => {
                self.unmet = None;
                problems.resolve(SUBJECT);
                match others.as_slice() {
                    [] => problems.resolve(OTHERS),
                    others => problems.report(OTHERS, &beside(dir, others)),
                }
            }
            Err(error) => {
                let sentence = crate::telemetry::chain(&error);
                problems.report(SUBJECT, &sentence);
                self.unmet = Some(format!("{SUBJECT}: {sentence}"));
            }
        }
    }
}

/// Removes the file, and what a writer that was killed left of one. `false`: it was not there.
pub(crate) fn remove(dir: &Path) -> Result<bool, CniConfError> {
    let path = dir.join(FILE_NAME);
    disk::remove(&path).map_err(|source| CniConfError::Remove { path, source })
}

/// Runtimes that know only older versions of CNI take the first version; others the highest that they know.
fn content(runtime_dir: &Path, state_dir: &Path) -> String {
    let conflist = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "millrace",
        "plugins": [{ "type": PLUGIN, "runtimeDir": runtime_dir, "stateDir": state_dir }],
    });
    format!("{conflist:#}\n")
}

/// Makes the file as it must be, and returns the files of others that come after it.
fn place(dir: &Path, content: &str) -> Result<Vec<String>, CniConfError> {
    let path = dir.join(FILE_NAME);
    let mut names = configurations(dir).map_err(|source| CniConfError::Read { path: dir.into(), source })?;
    if fs::read(&path).ok().as_deref() != Some(content.as_bytes()) {
        write(dir, content).map_err(|source| CniConfError::Write { path: path.clone(), source })?;
        tracing::info!("wrote {}: the container runtime calls Millrace from now on", path.display());
    }
    names.retain(|name| name != FILE_NAME);
    match names.first() {
        Some(first) if first.as_str() < FILE_NAME => Err(CniConfError::Shadowed { path: dir.join(first) }),
        _ => Ok(names),
    }
}

/// The names that a runtime reads, in its order.
fn configurations(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_read = path.extension().is_some_and(|it| EXTENSIONS.iter().any(|extension| it == *extension));
        if is_read && let Some(name) = path.file_name() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whole or not at all, and on disk. Renamed inside the directory, which is what containerd's watch notices.
fn write(dir: &Path, content: &str) -> io::Result<()> {
    disk::replace(&dir.join(FILE_NAME), content.as_bytes(), 0o644)
}

fn beside(dir: &Path, others: &[String]) -> String {
    format!(
        "{} is in {} too: pods that were made with it keep its network until they are made anew, and without Millrace the \
         runtime goes back to it; remove it when its CNI is no longer used",
        others.join(", "),
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        conf: CniConf,
        problems: Problems,
    }

    impl Place {
        fn new(others: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for other in others {
                fs::write(dir.path().join(other), "{}").unwrap();
            }
            let conf = CniConf::new(Some(dir.path().into()), Path::new("/run/m"), Path::new("/var/m"));
            Self { dir, conf, problems: Problems::default() }
        }

        fn keep(&mut self) {
            self.conf.keep(Instant::now(), &self.problems);
        }

        fn names(&self) -> Vec<String> {
            configurations(self.dir.path()).unwrap()
        }
    }

    #[test]
    fn the_file_is_written_when_the_node_can_serve_and_again_when_it_is_lost() {
        let mut place = Place::new(&[]);
        assert!(place.conf.is_awaited() && place.names().is_empty());
        for _ in 0..2 {
            place.keep();
            assert_eq!(place.names(), [FILE_NAME]);
            assert!(!place.conf.is_awaited() && place.conf.unmet().is_none());
            assert!(remove(place.dir.path()).unwrap());
        }
        assert!(!remove(place.dir.path()).unwrap(), "gone already");
    }

    #[test]
    fn the_file_names_the_directories_and_both_versions() {
        let mut place = Place::new(&[]);
        place.keep();
        let content = fs::read(place.dir.path().join(FILE_NAME)).unwrap();
        let conflist: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(conflist["cniVersion"], "1.0.0");
        assert_eq!(conflist["cniVersions"][1], "1.1.0");
        let expected = json!({"type": "millrace-cni", "runtimeDir": "/run/m", "stateDir": "/var/m"});
        assert_eq!(conflist["plugins"][0], expected);
    }

    #[test]
    fn a_file_of_another_cni_that_comes_first_is_named_until_it_is_gone() {
        let mut place = Place::new(&["00-other.conflist", "README"]);
        place.keep();
        let unmet = place.conf.unmet().unwrap();
        assert!(unmet.contains("00-other.conflist") && unmet.contains("remove"), "{unmet}");
        fs::remove_file(place.dir.path().join("00-other.conflist")).unwrap();
        place.keep();
        assert!(place.conf.unmet().is_none() && place.problems.sentences().is_empty());
    }

    #[test]
    fn a_file_of_another_cni_that_comes_later_is_a_problem_but_hinders_nothing() {
        let mut place = Place::new(&["10-other.conflist"]);
        place.keep();
        assert!(place.conf.unmet().is_none());
        let problems = place.problems.sentences();
        assert!(problems.len() == 1 && problems[0].contains("10-other.conflist"), "{problems:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_with_its_option() {
        let mut place = Place::new(&[]);
        fs::remove_dir(place.dir.path()).unwrap();
        place.keep();
        let unmet = place.conf.unmet().unwrap();
        assert!(unmet.contains("--cni-conf-dir"), "{unmet}");
    }
}
