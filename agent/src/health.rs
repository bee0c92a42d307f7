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

    /// One sentence per problem.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(subject, sentence)| format!("{subject}: {sentence}")).collect()
    }
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
}
