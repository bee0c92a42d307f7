//! When a changed file is ready to be read: never while it is being written.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

/// A file that went away may come back at once: whoever keeps a copy of what he replaces moves the old one first.
const GONE: Duration = Duration::from_millis(2);
/// A new file that nobody writes to: a link.
const CREATED: Duration = Duration::from_millis(50);
/// A file that was written to is ready when its writer closes it; a writer that never does is not waited for longer.
const OPEN: Duration = Duration::from_secs(10);

/// The changes that wait to be read.
#[derive(Debug)]
pub struct Settling {
    dir: PathBuf,
    files: BTreeMap<String, Change>,
    everything: Option<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    seen: Instant,
    ready: Instant,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug)]
enum Step {
    Created,
    Written,
    /// Mode or owner.
    Touched,
    /// Closed by its writer, or put here whole.
    Done,
    /// Removed, or moved away.
    Gone,
}

/// What is ready to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// When the earliest of it was seen; `None` when nothing is ready.
    pub seen: Option<Instant>,
    pub files: BTreeSet<String>,
    /// Compare the whole directory with what is known.
    pub everything: bool,
}

/// Whether a file of this name is read.
#[must_use]
pub fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

impl Settling {
    /// Begins with the whole directory.
    #[must_use]
    pub fn new(dir: &Path, now: Instant) -> Self {
        let everything = Some(Change { seen: now, ready: now });
        Self { dir: dir.to_owned(), files: BTreeMap::new(), everything }
    }

    /// The whole directory is to be compared.
    pub fn compare_all(&mut self, now: Instant) {
        self.everything.get_or_insert(Change { seen: now, ready: now });
    }

    /// Takes in a notification.
    pub fn note(&mut self, event: notify::Result<Event>, now: Instant) {
        let Ok(event) = event else { return self.compare_all(now) };
        if event.need_rescan() {
            self.compare_all(now);
        }
        let step = match event.kind {
            // Both ends of a move are told one by one, too.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Step::Done,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => Step::Gone,
            EventKind::Create(CreateKind::File | CreateKind::Any) => Step::Created,
            EventKind::Modify(ModifyKind::Metadata(_)) => Step::Touched,
            EventKind::Modify(_) => Step::Written,
            EventKind::Any | EventKind::Access(_) | EventKind::Create(_) | EventKind::Other => return,
        };
        for path in &event.paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.parent() == Some(&self.dir) && is_manifest(name) {
                self.change(name, step, now);
            } else if *path == self.dir || event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::To)) {
                // The directory itself, or what its files link to: a ConfigMap volume changes by renaming a link.
                self.compare_all(now);
            }
        }
    }

    fn change(&mut self, name: &str, step: Step, now: Instant) {
        let known = self.files.get(name).copied();
        let seen = known.map_or(now, |change| change.seen);
        let ready = match (step, known) {
            (Step::Done, _) | (Step::Touched, None) => now,
            (Step::Gone, _) => now + GONE,
            (Step::Created, _) => now + CREATED,
            (Step::Written, _) => seen + OPEN,
            // A writer may set the mode before it closes.
            (Step::Touched, Some(change)) => change.ready,
        };
        self.files.insert(name.to_owned(), Change { seen, ready });
    }

    /// The file may be in the hands of a writer whose notifications are still under way.
    pub fn postpone(&mut self, name: &str, now: Instant) {
        self.change(name, Step::Created, now);
    }

    /// Takes what is ready.
    pub fn take_ready(&mut self, now: Instant) -> Ready {
        let mut ready = Ready::default();
        let mut seen = |at: Instant| ready.seen = Some(ready.seen.map_or(at, |earlier| earlier.min(at)));
        if let Some(change) = self.everything.take_if(|change| change.ready <= now) {
            seen(change.seen);
            ready.everything = true;
        }
        self.files.retain(|name, change| {
            let is_ready = change.ready <= now;
            if is_ready {
                seen(change.seen);
                ready.files.insert(name.clone());
            }
            !is_ready
        });
        ready
    }

    /// When the next change is ready.
    #[must_use]
    pub fn next_ready(&self) -> Option<Instant> {
        self.files.values().chain(&self.everything).map(|change| change.ready).min()
    }

    /// Whether somebody is still writing to the file.
    #[must_use]
    pub fn is_unsettled(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        time::{Duration, Instant},
    };

    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode, CreateKind, DataChange, ModifyKind, RemoveKind, RenameMode},
    };

    use super::{GONE, OPEN, Settling, is_manifest};

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const RENAMED_TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const RENAMED_FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const CREATED: EventKind = EventKind::Create(CreateKind::File);

    fn settled(start: Instant) -> Settling {
        let mut settling = Settling::new(Path::new("/m"), start);
        assert!(settling.take_ready(start).everything, "begins with everything");
        settling
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    #[test]
    fn a_file_is_ready_when_its_writer_closes_it() {
        let start = Instant::now();
        let mut settling = settled(start);
        for kind in [CREATED, WRITTEN, WRITTEN] {
            settling.note(Ok(event(kind, "/m/web.yaml")), start);
        }
        assert!(settling.take_ready(start + Duration::from_secs(5)).files.is_empty());
        assert!(settling.is_unsettled("web.yaml"));
        let close = start + Duration::from_secs(5);
        settling.note(Ok(event(CLOSED, "/m/web.yaml")), close);
        assert_eq!(settling.next_ready(), Some(close));
        let ready = settling.take_ready(close);
        assert!(ready.files.contains("web.yaml") && !ready.everything);
        assert_eq!(ready.seen, Some(start));
        assert_eq!(settling.next_ready(), None);
    }

    #[test]
    fn a_writer_that_never_closes_is_not_waited_for_for_ever() {
        let start = Instant::now();
        let mut settling = settled(start);
        let mut now = start;
        while now < start + OPEN {
            settling.note(Ok(event(WRITTEN, "/m/web.yaml")), now);
            now += Duration::from_secs(1);
        }
        assert!(settling.take_ready(now).files.contains("web.yaml"));
    }

    #[test]
    fn a_file_that_is_put_here_whole_is_ready_at_once() {
        let start = Instant::now();
        let mut settling = settled(start);
        settling.note(Ok(event(RENAMED_TO, "/m/web.yaml")), start);
        assert!(settling.take_ready(start).files.contains("web.yaml"));
    }

    #[test]
    fn a_file_that_goes_away_is_given_the_time_to_come_back() {
        for kind in [REMOVED, RENAMED_FROM] {
            let start = Instant::now();
            let mut settling = settled(start);
            settling.note(Ok(event(kind, "/m/web.yaml")), start);
            assert!(settling.take_ready(start).files.is_empty(), "{kind:?}");
            assert!(settling.take_ready(start + GONE).files.contains("web.yaml"), "{kind:?}");
        }
        let start = Instant::now();
        let mut settling = settled(start);
        for kind in [RENAMED_FROM, CREATED, WRITTEN] {
            settling.note(Ok(event(kind, "/m/web.yaml")), start);
        }
        assert!(settling.take_ready(start + GONE).files.is_empty(), "its successor is still being written");
    }

    #[test]
    fn a_swapped_link_or_the_directory_itself_means_everything() {
        for (kind, path, everything) in [
            (RENAMED_TO, "/m/..data", true),
            (REMOVED, "/m", true),
            (WRITTEN, "/m/web.yaml.tmp", false),
            (CLOSED, "/m/.web.yaml.swp", false),
            (WRITTEN, "/m/web.yaml", false),
        ] {
            let start = Instant::now();
            let mut settling = settled(start);
            settling.note(Ok(event(kind, path)), start);
            assert_eq!(settling.take_ready(start + GONE).everything, everything, "{path}");
        }
    }

    #[test]
    fn manifests_are_known_by_their_names() {
        for (name, expected) in [
            ("web.yaml", true),
            ("web.yml", true),
            ("web.json", true),
            ("web.yaml~", false),
            (".web.yaml", false),
            ("yaml", false),
            ("README.md", false),
        ] {
            assert_eq!(is_manifest(name), expected, "{name}");
        }
    }
}
