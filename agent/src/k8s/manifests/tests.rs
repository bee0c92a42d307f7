use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use agent_core::update::Update;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::COMPARE_INTERVAL;
use crate::k8s::source::{Event, OpenProblems, SourceConfig, SourceError, run, subject_of};

/// Far above what any change takes, so that only a lost change fails.
const BOUND: Duration = Duration::from_secs(20);

struct Source {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), SourceError>>,
    open: OpenProblems,
}

impl Source {
    /// Starts on a directory and takes everything up to the first sync.
    async fn start(dir: &Path) -> (Self, Vec<String>) {
        let (sender, events) = mpsc::channel(16);
        let config = SourceConfig::Manifests(dir.to_owned());
        let task = tokio::spawn(async move { run(&config, sender).await });
        let mut source = Self { events, task, open: OpenProblems::default() };
        let first = source.next().await;
        (source, first)
    }

    /// The updates of the next event, without the syncs.
    async fn next(&mut self) -> Vec<String> {
        let event =
            timeout(BOUND, self.events.recv()).await.expect("a change arrives").expect("the source runs");
        for report in event.batch.reports {
            self.open.record(report);
        }
        event
            .batch
            .updates
            .iter()
            .filter(|update| !matches!(update, Update::Synced(_)))
            .map(subject_of)
            .collect()
    }

    /// Waits for an update, collecting those before it.
    async fn until(&mut self, update: &str) -> Vec<String> {
        let mut collected = Vec::new();
        let deadline = Instant::now() + BOUND;
        while !collected.iter().any(|text| text == update) {
            assert!(Instant::now() < deadline, "{update} did not come, but {collected:?}");
            collected.extend(self.next().await);
        }
        collected
    }

    /// Waits until the open problems are as said.
    async fn until_problems(&mut self, expected: impl Fn(&[&str]) -> bool) {
        let deadline = Instant::now() + BOUND;
        while !expected(&self.open.sentences().collect::<Vec<_>>()) {
            assert!(Instant::now() < deadline, "{:?}", self.open);
            let updates = self.next().await;
            assert!(updates.is_empty(), "{updates:?}");
        }
    }

    async fn stop(self) {
        drop(self.events);
        timeout(BOUND, self.task).await.expect("the source ends").unwrap().unwrap();
    }
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

#[tokio::test]
async fn changes_of_every_sort_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    fs::write(file("a.yaml"), pod("a")).unwrap();
    fs::write(file("notes.txt"), "not read").unwrap();
    let (mut source, first) = Source::start(dir.path()).await;
    assert_eq!(first, ["+Pod default/a", "+Namespace default"]);

    // Created in place.
    fs::write(file("b.yml"), pod("b")).unwrap();
    source.until("+Pod default/b").await;
    // Written in place.
    fs::write(file("b.yml"), pod("b2")).unwrap();
    assert_eq!(source.until("+Pod default/b2").await, ["-Pod default/b", "+Pod default/b2"]);
    // Replaced atomically.
    fs::write(file("a.yaml.tmp"), pod("a2")).unwrap();
    fs::rename(file("a.yaml.tmp"), file("a.yaml")).unwrap();
    assert_eq!(source.until("+Pod default/a2").await, ["-Pod default/a", "+Pod default/a2"]);
    // Renamed out of sight, and back under another name.
    fs::rename(file("b.yml"), file("b.off")).unwrap();
    source.until("-Pod default/b2").await;
    fs::rename(file("b.off"), file("c.yaml")).unwrap();
    source.until("+Pod default/b2").await;
    // Linked.
    fs::write(file("target"), pod("linked")).unwrap();
    std::os::unix::fs::symlink(file("target"), file("d.yaml")).unwrap();
    source.until("+Pod default/linked").await;
    // What the link points to is in no notification of a manifest.
    fs::write(file("target"), pod("relinked")).unwrap();
    source.until("+Pod default/relinked").await;
    // Removed.
    fs::remove_file(file("a.yaml")).unwrap();
    source.until("-Pod default/a2").await;
    source.stop().await;
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), pod("a")).unwrap();
    let (mut source, _) = Source::start(dir.path()).await;
    let mut file = fs::File::create(dir.path().join("a.yaml")).unwrap();
    file.write_all(b"apiVersion: v1\nkind: P").unwrap();
    // Another change passes while the writer is at it.
    fs::write(dir.path().join("b.yaml"), pod("b")).unwrap();
    assert_eq!(source.until("+Pod default/b").await, ["+Pod default/b"]);
    assert_eq!(source.open.sentences().count(), 0);
    file.write_all(b"od\nmetadata: {name: a2}\n").unwrap();
    drop(file);
    assert_eq!(source.until("+Pod default/a2").await, ["-Pod default/a", "+Pod default/a2"]);
    source.stop().await;
}

#[tokio::test]
async fn a_broken_file_is_reported_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), pod("a")).unwrap();
    let (mut source, _) = Source::start(dir.path()).await;
    fs::write(dir.path().join("a.yaml"), format!("{}---\nkind: [", pod("a"))).unwrap();
    source.until_problems(|problems| {
        matches!(problems, [one] if one.contains("manifest a.yaml, document 2") && one.contains("stays in force"))
    })
    .await;
    fs::write(dir.path().join("a.yaml"), pod("a")).unwrap();
    source.until_problems(|problems| problems.is_empty()).await;
    source.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_gone_stays_in_force_and_is_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), pod("a")).unwrap();
    let (mut source, _) = Source::start(&dir).await;
    fs::rename(&dir, parent.path().join("away")).unwrap();
    source.until_problems(|problems| matches!(problems, [one] if one.contains("restore it"))).await;
    let next = parent.path().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("a.yaml"), pod("a2")).unwrap();
    fs::rename(next, &dir).unwrap();
    assert_eq!(source.until("+Pod default/a2").await, ["-Pod default/a", "+Pod default/a2"]);
    assert_eq!(source.open.sentences().count(), 0);
    // Ten changes in a row take ten comparisons when the new directory is not watched.
    let begin = Instant::now();
    for round in 0..10 {
        fs::write(dir.join("b.yaml"), pod(&format!("b{round}"))).unwrap();
        source.until(&format!("+Pod default/b{round}")).await;
    }
    assert!(begin.elapsed() < 4 * COMPARE_INTERVAL, "{:?}", begin.elapsed());
    source.stop().await;
}

#[tokio::test]
async fn a_missing_directory_is_an_error_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, _events) = mpsc::channel(1);
    let missing = SourceConfig::Manifests(dir.path().join("missing"));
    let error = run(&missing, sender.clone()).await.unwrap_err().to_string();
    assert!(error.contains("missing: cannot read the directory; create it"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    let file = SourceConfig::Manifests(dir.path().join("file"));
    let error = run(&file, sender).await.unwrap_err().to_string();
    assert!(error.contains("not a directory"), "{error}");
}

/// The median, so that a busy machine does not matter.
#[tokio::test]
async fn a_change_arrives_within_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut source, _) = Source::start(dir.path()).await;
    let mut times = Vec::new();
    for round in 0..21 {
        let begin = Instant::now();
        fs::write(dir.path().join("a.yaml"), pod(&format!("a{round}"))).unwrap();
        source.until(&format!("+Pod default/a{round}")).await;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
    source.stop().await;
}
