//! What is wrong right now.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The problems that exist at this moment, by subject. Each is logged when it appears, changes or ends, not each
/// time it is seen.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<String, String>>>);

impl Problems {
    /// Notes a problem: one sentence that names the object and the remedy.
    pub fn report(&self, subject: &str, sentence: &str) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = problems.insert(subject.to_owned(), sentence.to_owned());
        if known.as_deref() != Some(sentence) {
            tracing::warn!("{subject}: {sentence}");
        }
    }

    /// Notes that a subject has no problem (any more).
    pub fn resolve(&self, subject: &str) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.remove(subject).is_some() {
            tracing::info!("{subject}: works again");
        }
    }

    /// How many there are, by what they are about.
    #[must_use]
    pub fn by_class(&self) -> BTreeMap<&'static str, usize> {
        let mut classes = BTreeMap::new();
        for subject in self.0.lock().unwrap_or_else(PoisonError::into_inner).keys() {
            *classes.entry(class(subject)).or_default() += 1;
        }
        classes
    }

    /// One sentence per problem.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(subject, sentence)| format!("{subject}: {sentence}")).collect()
    }
}

/// What problems are about: the subjects that have no name in them.
const CLASSES: &[&str] = &[
    "CNI configuration",
    "catalog",
    "conntrack",
    "conntrack shares",
    "departed pods",
    "firewall of the host",
    "hooks",
    "layout of the maps",
    "maps",
    "network",
    "programs of uplinks",
    "routes",
    "services",
    "the host's way to services",
    "uplink",
    "ways to pods",
];

/// Those that go on with a name, or that are options.
const BEGINNINGS: &[(&str, &str)] = &[
    ("--", "addresses"),
    ("Node ", "node"),
    ("forwarding of ", "forwarding"),
    ("interface ", "interface"),
    ("map ", "maps"),
    ("pod ", "pod"),
];

/// What a problem is about, in one of few words.
fn class(subject: &str) -> &'static str {
    let whole = CLASSES.iter().find(|class| **class == subject).copied();
    let begun = || BEGINNINGS.iter().find(|(beginning, _)| subject.starts_with(beginning));
    whole.or_else(|| begun().map(|(_, class)| *class)).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_exists_until_it_is_resolved() {
        let problems = Problems::default();
        problems.report("map POLICIES", "it is full");
        problems.report("map POLICIES", "it is still full");
        problems.resolve("map CIDRS_V4");
        assert_eq!(problems.sentences(), ["map POLICIES: it is still full"]);
        problems.resolve("map POLICIES");
        assert!(problems.sentences().is_empty());
    }

    #[test]
    fn names_make_no_class_of_their_own() {
        let problems = Problems::default();
        for subject in
            ["pod a/b", "pod a/c", "Node n", "hooks", "--metrics-address", "interface x", "anything"]
        {
            problems.report(subject, "it is wrong");
        }
        let expected =
            [("addresses", 1), ("hooks", 1), ("interface", 1), ("node", 1), ("other", 1), ("pod", 2)];
        assert_eq!(problems.by_class(), BTreeMap::from(expected));
    }
}
