use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_core::update::Update;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::COMPARE_INTERVAL;
use crate::open_problems::{Attention, OpenProblems};
use crate::source::{Event, Look, SourceConfig, SourceError, follow, run, subject_of};

/// Far above what any change takes, so that only a lost change fails.
const BOUND: Duration = Duration::from_secs(20);

/// The folder of the copies, beside the leases of a state directory.
fn copies_of(state: &TempDir) -> PathBuf {
    state.path().join("manifests")
}

struct Source {
    events: mpsc::Receiver<Event>,
    looks: mpsc::Sender<Look>,
    task: JoinHandle<Result<(), SourceError>>,
    open: OpenProblems,
    synced: bool,
    state: Option<TempDir>,
}

impl Source {
    /// Starts on a directory, without copies, and takes everything up to the first sync.
    async fn start(dir: &Path) -> (Self, Vec<String>) {
        let state = tempfile::tempdir().unwrap();
        let (source, first) = Self::start_again(dir, copies_of(&state)).await;
        (Self { state: Some(state), ..source }, first)
    }

    /// Starts with the copies of an earlier run.
    async fn start_again(dir: &Path, copies: PathBuf) -> (Self, Vec<String>) {
        let ((sender, events), (looks, asked)) = (mpsc::channel(16), mpsc::channel(1));
        let config = SourceConfig::Manifests { dir: dir.to_owned(), copies };
        let task =
            tokio::spawn(async move { follow(&config, sender, asked, &std::sync::Arc::default()).await });
        let mut source =
            Self { events, looks, task, open: OpenProblems::default(), synced: false, state: None };
        let mut first = Vec::new();
        while !source.synced {
            first.extend(source.next().await);
        }
        (source, first)
    }

    /// The updates of the next event, without the syncs.
    async fn next(&mut self) -> Vec<String> {
        let event =
            timeout(BOUND, self.events.recv()).await.expect("a change arrives").expect("the source runs");
        self.open.record(event.batch.reports.clone(), |_| Attention::Log, Instant::now());
        self.synced |= event.batch.updates.iter().any(|update| matches!(update, Update::Synced(_)));
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
    async fn until_problems(&mut self, expected: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + BOUND;
        while !expected(&self.open.sentences(|_| true)) {
            assert!(Instant::now() < deadline, "{:?}", self.open);
            let updates = self.next().await;
            assert!(updates.is_empty(), "{updates:?}");
        }
    }

    fn problems(&self) -> Vec<String> {
        self.open.sentences(|_| true)
    }

    async fn stop(self) {
        drop(self.events);
        timeout(BOUND, self.task).await.expect("the source ends").unwrap().unwrap();
        drop(self.state);
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
    assert_eq!(source.open.sentences(|_| true).len(), 0);
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
    source.until_problems(<[String]>::is_empty).await;
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
    assert_eq!(source.open.sentences(|_| true).len(), 0);
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
    let source = |name: &str| SourceConfig::Manifests {
        dir: dir.path().join(name),
        copies: dir.path().join("copies"),
    };
    let missing = source("missing");
    let error = run(&missing, sender.clone()).await.unwrap_err().to_string();
    assert!(error.contains("missing: cannot read the directory; create it"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    let file = source("file");
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

/// Runs a source from start to end, so that copies are left of what the directory holds.
async fn run_once(dir: &TempDir, state: &TempDir) -> Vec<String> {
    let (source, first) = Source::start_again(dir.path(), copies_of(state)).await;
    source.stop().await;
    first
}

#[tokio::test]
async fn what_a_file_said_before_is_in_force_when_it_is_broken_at_the_start() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = dir.path().join("a.yaml");
    fs::write(&file, pod("a")).unwrap();
    run_once(&dir, &state).await;
    let half = format!("{}---\nkind: [", pod("other"));
    // Text that is no text cannot be read at all.
    for broken in [half.as_bytes(), b"\xff"] {
        fs::write(&file, broken).unwrap();
        // A second start in a row still knows.
        for _ in 0..2 {
            let (source, first) = Source::start_again(dir.path(), copies_of(&state)).await;
            assert_eq!(first, ["+Pod default/a", "+Namespace default"]);
            let problems = source.problems();
            assert!(matches!(&problems[..], [one] if one.starts_with("manifest a.yaml")), "{problems:?}");
            assert!(problems[0].ends_with("what the file said before stays in force"), "{problems:?}");
            source.stop().await;
        }
    }
    let (mut source, _) = Source::start_again(dir.path(), copies_of(&state)).await;
    fs::write(&file, pod("a2")).unwrap();
    assert_eq!(source.until("+Pod default/a2").await, ["-Pod default/a", "+Pod default/a2"]);
    assert!(source.problems().is_empty());
    source.stop().await;
    fs::write(&file, half).unwrap();
    assert_eq!(run_once(&dir, &state).await, ["+Pod default/a2", "+Namespace default"]);
}

#[tokio::test]
async fn an_object_that_cannot_be_used_at_the_start_is_in_force_as_it_was_and_the_rest_as_it_is() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = dir.path().join("a.yaml");
    let policy = |cidr: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: db}}, \
             spec: {{ingress: [{{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]}}}}\n---\n"
        )
    };
    let write = |cidr: &str, name: &str| fs::write(&file, policy(cidr) + &pod(name)).unwrap();
    write("10.0.0.0/8", "old");
    run_once(&dir, &state).await;
    write("10.0.0.0/99", "new");
    run_once(&dir, &state).await;
    fs::write(&file, "kind: [").unwrap();
    let (mut source, first) = Source::start_again(dir.path(), copies_of(&state)).await;
    assert_eq!(first, ["+Pod default/new", "+Namespace default", "+NetworkPolicy default/db"]);
    // Nothing to send: the good policy is in force already.
    write("10.0.0.0/8", "new");
    source.until_problems(<[String]>::is_empty).await;
    source.stop().await;
}

#[tokio::test]
async fn a_file_that_is_broken_at_the_start_without_a_copy_is_ignored_and_the_others_count() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "kind: [").unwrap();
    fs::write(dir.path().join("b.yaml"), pod("b")).unwrap();
    let (source, first) = Source::start(dir.path()).await;
    assert_eq!(first, ["+Pod default/b", "+Namespace default"]);
    let problems = source.problems();
    assert!(
        matches!(&problems[..], [one] if one.ends_with("until then the file is ignored")),
        "{problems:?}"
    );
    source.stop().await;
}

#[tokio::test]
async fn a_damaged_copy_is_ignored_reported_and_written_anew() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, copy) = (dir.path().join("a.yaml"), copies_of(&state).join("a.yaml"));
    fs::write(&file, format!("{}---\n{}", pod("a"), pod("b"))).unwrap();
    run_once(&dir, &state).await;
    let whole = fs::read_to_string(&copy).unwrap();
    // What is left of the copy is a good manifest.
    fs::write(&copy, whole.strip_suffix(&format!("---\n{}", pod("b"))).unwrap()).unwrap();
    fs::write(&file, "kind: [").unwrap();
    let (mut source, first) = Source::start_again(dir.path(), copies_of(&state)).await;
    assert!(first.is_empty(), "{first:?}");
    let problems = source.problems();
    assert!(
        matches!(&problems[..], [broken, copy] if broken.ends_with("until then the file is ignored")
            && copy.contains("the copy of what it said before cannot be used (its length or its checksum is wrong)")),
        "{problems:?}"
    );
    fs::write(&file, pod("a")).unwrap();
    source.until("+Pod default/a").await;
    assert!(source.problems().is_empty());
    source.stop().await;
    fs::write(&file, "kind: [").unwrap();
    assert_eq!(run_once(&dir, &state).await, ["+Pod default/a", "+Namespace default"]);
}

#[tokio::test]
async fn a_file_that_was_deleted_takes_its_copy_along() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |name: &str| dir.path().join(name);
    fs::write(file("a.yaml"), pod("a")).unwrap();
    fs::write(file("b.yaml"), pod("b")).unwrap();
    run_once(&dir, &state).await;
    // While no agent runs.
    fs::remove_file(file("a.yaml")).unwrap();
    let (mut source, first) = Source::start_again(dir.path(), copies_of(&state)).await;
    assert_eq!(first, ["+Pod default/b", "+Namespace default"]);
    // While one does.
    fs::remove_file(file("b.yaml")).unwrap();
    source.until("-Pod default/b").await;
    source.stop().await;
    assert_eq!(fs::read_dir(copies_of(&state)).unwrap().count(), 0);
    // A broken file of the same name is another file.
    fs::write(file("a.yaml"), "kind: [").unwrap();
    assert!(run_once(&dir, &state).await.is_empty());
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_a_problem_and_no_more() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(copies_of(&state), "in the way").unwrap();
    fs::write(dir.path().join("a.yaml"), pod("a")).unwrap();
    let (mut source, first) = Source::start_again(dir.path(), copies_of(&state)).await;
    assert_eq!(first, ["+Pod default/a", "+Namespace default"]);
    source.until_problems(|problems| matches!(problems, [one] if one.contains("cannot write a.yaml"))).await;
    fs::remove_file(copies_of(&state)).unwrap();
    source.until_problems(<[String]>::is_empty).await;
    source.stop().await;
    assert!(copies_of(&state).join("a.yaml").is_file());
}

#[tokio::test]
async fn whoever_asks_for_a_look_is_answered_when_what_is_there_was_sent() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = elsewhere.path().join("pod");
    let pod = |name: &str, round: u8| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, uid: u{round}}}}}")
    };
    std::os::unix::fs::symlink(&target, dir.path().join("web.yaml")).unwrap();
    let (mut source, _) = Source::start(dir.path()).await;
    for round in 0..3 {
        fs::write(&target, pod("web", round)).unwrap();
        let ((look, seen), asked) = (oneshot::channel(), Instant::now());
        source.looks.send(look).await.unwrap();
        source.until("+Pod default/web").await;
        assert!(asked.elapsed() < COMPARE_INTERVAL / 2, "found by chance: {:?}", asked.elapsed());
        timeout(BOUND, seen).await.expect("the look is answered").unwrap();
    }
    let writer = fs::File::create(dir.path().join("more.yaml")).unwrap();
    let (look, seen) = oneshot::channel();
    source.looks.send(look).await.unwrap();
    std::io::Write::write_all(&mut { writer }, pod("more", 0).as_bytes()).unwrap();
    timeout(BOUND, seen).await.expect("the look is answered").unwrap();
    let updates = source.events.try_recv().expect("it was sent before").batch.updates;
    assert_eq!(updates.iter().map(subject_of).collect::<Vec<_>>(), ["+Pod default/more"]);
    source.stop().await;
}
