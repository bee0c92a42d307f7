//! What is wrong now, object by object: what status shows and the log tells.
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use agent_core::{problem::told_together, update::Kind};

use super::{
    convert::ObjectKey,
    source::{Report, Subject},
};

/// A subject that changes more often than so many times in [`WINDOW`] is left out of the log for the rest of it.
const CHANGES: u32 = 5;
const WINDOW: Duration = Duration::from_mins(1);

/// What becomes of reports about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// It is nobody's business here.
    None,
    /// Status may show it.
    Keep,
    /// The log tells it as well.
    Log,
}

/// The reports that are not cleared.
#[derive(Debug, Default)]
pub struct OpenProblems {
    open: BTreeMap<Subject, Vec<String>>,
    /// How often each subject was logged, and since when.
    logged: HashMap<Subject, (Instant, u32)>,
    swept: Option<Instant>,
}

/// What a number of reports changes, as lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub problems: Vec<String>,
    /// What is no problem any more.
    pub solved: Vec<String>,
}

impl Lines {
    /// Writes them to the log.
    pub fn log(&self) {
        self.problems.iter().for_each(|line| tracing::warn!("{line}"));
        self.solved.iter().for_each(|line| tracing::info!("{line}"));
    }
}

impl OpenProblems {
    /// Takes reports in, and returns what there is to log of what they change.
    pub fn record(
        &mut self,
        reports: impl IntoIterator<Item = Report>,
        attention: impl Fn(&Subject) -> Attention,
        now: Instant,
    ) -> Lines {
        self.forget_old_lines(now);
        let (mut problems, mut solved) = (Vec::new(), Vec::new());
        for Report { subject, problems: mut sentences } in reports {
            let attention = attention(&subject);
            if attention == Attention::None {
                sentences.clear();
            }
            if self.open.get(&subject).map_or(&[][..], Vec::as_slice) == sentences.as_slice() {
                continue;
            }
            let changes = if attention == Attention::Log { self.count(&subject, now) } else { u32::MAX };
            if changes == CHANGES {
                let note = "changes so often that the log leaves it out for a minute; `millrace status` has what holds";
                problems.push((subject.clone(), format!("{subject}: {note}")));
            }
            if sentences.is_empty() {
                self.open.remove(&subject);
                if changes < CHANGES {
                    solved.push((subject.clone(), format!("{subject}: no problem any more")));
                }
            } else {
                if changes < CHANGES {
                    problems.extend(sentences.iter().map(|sentence| (subject.clone(), sentence.clone())));
                }
                self.open.insert(subject, sentences);
            }
        }
        Lines { problems: told(problems), solved: told(solved) }
    }

    /// Why lists do not come, one sentence each.
    pub fn of_watches(&self) -> impl Iterator<Item = &str> {
        let watches = self.open.iter().filter(|(subject, _)| matches!(subject, Subject::Watch(_)));
        watches.flat_map(|(_, problems)| problems).map(String::as_str)
    }

    /// What is wrong, objects with the same problem told together.
    #[must_use]
    pub fn sentences(&self, is_shown: impl Fn(&Subject) -> bool) -> Vec<String> {
        let shown = self.open.iter().filter(|(subject, _)| is_shown(subject));
        told(shown.flat_map(|(subject, sentences)| {
            sentences.iter().map(|sentence| (subject.clone(), sentence.clone()))
        }))
    }

    /// How many problems there are, by what they are about.
    #[must_use]
    pub fn counts(&self, is_shown: impl Fn(&Subject) -> bool) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (subject, sentences) in self.open.iter().filter(|(subject, _)| is_shown(subject)) {
            *counts.entry(subject.class()).or_default() += sentences.len();
        }
        counts
    }

    /// How many changes of a subject were logged in this window.
    fn count(&mut self, subject: &Subject, now: Instant) -> u32 {
        let (since, changes) = self.logged.entry(subject.clone()).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *changes) = (now, 0);
        }
        *changes += 1;
        *changes - 1
    }

    fn forget_old_lines(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= WINDOW) {
            self.logged.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            self.swept = Some(now);
        }
    }
}

/// Sentences as people read them: those of each kind of subject together, so that no kind hides another. Policies come
/// first, for they fail closed.
fn told(sentences: impl IntoIterator<Item = (Subject, String)>) -> Vec<String> {
    let mut kinds: BTreeMap<Rank, Vec<(String, String)>> = BTreeMap::new();
    for (subject, sentence) in sentences {
        kinds.entry(kind_of(&subject)).or_default().push(apart(&subject, sentence));
    }
    kinds.into_values().flat_map(told_together).collect()
}

/// The place of a kind of subject among the others: whether it is told after policies, its number, the kind of object.
type Rank = (bool, u8, Option<Kind>);

/// What kind of subject it is, in the order in which they are told.
const fn kind_of(subject: &Subject) -> Rank {
    match subject {
        Subject::Object(ObjectKey { kind, .. }) => (!matches!(kind, Kind::NetworkPolicy), 5, Some(*kind)),
        Subject::Source => (true, 0, None),
        Subject::Watch(_) => (true, 1, None),
        Subject::File(_) => (true, 2, None),
        Subject::Copies => (true, 3, None),
        Subject::Duplicate(_) => (true, 4, None),
        Subject::Unsupported(ObjectKey { kind, .. }) => (true, 6, Some(*kind)),
        Subject::Outside(ObjectKey { kind, .. }) => (true, 7, Some(*kind)),
    }
}

/// A sentence as the subject and what is wrong with it, where it begins with the subject.
fn apart(subject: &Subject, sentence: String) -> (String, String) {
    let name = subject.to_string();
    match sentence.strip_prefix(&name).and_then(|rest| rest.strip_prefix(": ")) {
        Some(rest) => (name, rest.to_owned()),
        None => (String::new(), sentence),
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::ObjectName;

    use super::*;

    fn object(kind: Kind, name: &str) -> Subject {
        Subject::Object(ObjectKey { kind, name: ObjectName::new("shop", name) })
    }

    fn report(subject: &Subject, problems: &[&str]) -> Report {
        let problems = problems.iter().map(|problem| format!("{subject}: {problem}")).collect();
        Report { subject: subject.clone(), problems }
    }

    fn lines(problems: &[&str], solved: &[&str]) -> Lines {
        let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        Lines { problems: owned(problems), solved: owned(solved) }
    }

    const ALL: fn(&Subject) -> bool = |_| true;
    const LOG: fn(&Subject) -> Attention = |_| Attention::Log;

    #[test]
    fn a_report_stays_open_until_it_is_cleared() {
        let (mut open, now) = (OpenProblems::default(), Instant::now());
        let subject = Subject::File("a.yaml".to_owned());
        let report = |problems: &[&str]| Report {
            subject: subject.clone(),
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
        };
        assert_eq!(open.record([report(&["first", "second"])], LOG, now), lines(&["first", "second"], &[]));
        assert_eq!(open.record([report(&["first", "second"])], LOG, now), Lines::default());
        assert_eq!(open.sentences(ALL), ["first", "second"]);
        assert_eq!(open.record([report(&["third"])], LOG, now), lines(&["third"], &[]));
        let solved = lines(&[], &["manifest a.yaml: no problem any more"]);
        assert_eq!(open.record([report(&[])], LOG, now), solved);
        assert_eq!(open.record([report(&[])], LOG, now), Lines::default());
        assert!(open.sentences(ALL).is_empty());
    }

    #[test]
    fn ten_thousand_objects_with_one_problem_are_a_line_and_hide_no_policy() {
        let (mut open, now) = (OpenProblems::default(), Instant::now());
        let services =
            (0..10_000).map(|n| report(&object(Kind::Service, &format!("web-{n:05}")), &["is wrong"]));
        let broken = (0..10_000)
            .map(|n| report(&object(Kind::Pod, &format!("x-{n:05}")), &[&format!("has the odd port {n}")]));
        let policy = report(&object(Kind::NetworkPolicy, "deny"), &["is broken"]);
        let node = report(&object(Kind::Node, "n1"), &["has no address"]);
        let logged = open.record(services.chain(broken).chain([policy, node]), LOG, now);
        let first =
            "Service shop/web-00000, Service shop/web-00001, Service shop/web-00002 and 9997 more: is wrong";
        let sentences = open.sentences(ALL);
        assert_eq!(logged.problems, sentences);
        assert_eq!(&sentences[..2], ["NetworkPolicy shop/deny: is broken", first]);
        assert!(sentences.len() < 50, "{}", sentences.len());
        assert_eq!(sentences.last().unwrap(), "Node shop/n1: has no address");
        assert!(sentences.iter().any(|sentence| sentence.contains("9975 more problems")), "{sentences:?}");
        assert_eq!(open.sentences(|subject| *subject == object(Kind::Service, "web-00007")).len(), 1);
    }

    #[test]
    fn a_subject_that_flaps_is_left_out_of_the_log_and_not_of_the_status() {
        let (mut open, start) = (OpenProblems::default(), Instant::now());
        let subject = object(Kind::Service, "web");
        let mut logged = Vec::new();
        for n in 0..100 {
            let now = start + Duration::from_millis(n);
            for problems in [&["is wrong"][..], &[]] {
                let lines = open.record([report(&subject, problems)], LOG, now);
                logged.extend(lines.problems.into_iter().chain(lines.solved));
            }
        }
        assert_eq!(logged.len(), CHANGES as usize + 1, "{logged:?}");
        assert!(logged.last().unwrap().contains("so often"), "{logged:?}");
        let other = open.record([report(&object(Kind::Service, "other"), &["is wrong"])], LOG, start);
        assert_eq!(other.problems.len(), 1, "each subject has a limit of its own");
        let later = open.record([report(&subject, &["is wrong"])], LOG, start + WINDOW);
        assert_eq!(later, lines(&["Service shop/web: is wrong"], &[]));
        assert_eq!(open.sentences(ALL), ["Service shop/other, Service shop/web: is wrong"]);
    }

    #[test]
    fn what_is_only_kept_is_in_the_status_and_not_in_the_log() {
        let (mut open, now) = (OpenProblems::default(), Instant::now());
        let subject = object(Kind::Service, "web");
        for (problems, shown) in [(&["is wrong"][..], 1), (&[], 0)] {
            let lines = open.record([report(&subject, problems)], |_| Attention::Keep, now);
            assert_eq!((lines, open.sentences(ALL).len()), (Lines::default(), shown));
        }
    }

    #[test]
    fn what_concerns_another_node_is_not_kept() {
        let (mut open, now) = (OpenProblems::default(), Instant::now());
        let elsewhere = [report(&object(Kind::Pod, "far"), &["is wrong"])];
        assert_eq!(open.record(elsewhere, |_| Attention::None, now), Lines::default());
        assert!(open.sentences(ALL).is_empty());
    }
}
