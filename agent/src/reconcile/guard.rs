//! Looking after the programs' places on their hooks, again and again.
use std::time::{Duration, Instant};

use agent_core::model::endpoint::AttachmentId;

use super::Reconciler;
use crate::dataplane::Guarded;

/// A program that is off its hook is noticed within this.
const INTERVAL: Duration = Duration::from_secs(10);

/// A repair stays a problem for so long: time to see it, and to find out who else works on the hooks.
const MEMORY: Duration = Duration::from_mins(5);

/// What problems with the hooks are filed under.
const SUBJECT: &str = "hooks";

/// When the hooks are looked at, and what was found.
#[derive(Debug)]
pub(super) struct HookGuard {
    pub(super) due: Instant,
    /// What is still not in its place.
    unmet: Vec<String>,
    repairs: u64,
    /// The last repairs, and when they were made.
    repaired: Option<(Instant, String)>,
}

impl HookGuard {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now + INTERVAL, unmet: Vec::new(), repairs: 0, repaired: None }
    }

    /// Programs that could not be put back: one sentence for each place.
    pub(super) fn unmet(&self) -> impl Iterator<Item = &String> {
        self.unmet.iter()
    }

    /// How many programs were put back.
    pub(super) const fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Takes in what a look came to. Returns the problem to report, if there is one.
    fn take(&mut self, guarded: Guarded, now: Instant) -> Option<String> {
        self.due = now + INTERVAL;
        self.repairs += guarded.repaired.len() as u64;
        self.repaired.take_if(|(at, _)| now.duration_since(*at) >= MEMORY);
        if !guarded.repaired.is_empty() {
            let sentence = format!(
                "{}; put back (repair {} of this agent): find out who else attaches or detaches programs on this node",
                guarded.repaired.join("; "),
                self.repairs
            );
            self.repaired = Some((now, sentence));
        }
        let repaired = self.repaired.as_ref().map(|(_, sentence)| sentence.clone());
        self.unmet = guarded.failed;
        let failed = (!self.unmet.is_empty())
            .then(|| format!("{}; trying again, until then this hook is open", self.unmet.join("; ")));
        let sentences: Vec<String> = failed.into_iter().chain(repaired).collect();
        (!sentences.is_empty()).then(|| sentences.join(". "))
    }
}

impl Reconciler {
    /// Looks at the hooks, if it is time.
    pub(super) fn guard_when_due(&mut self, now: Instant) {
        if self.guard.due <= now {
            self.guard_hooks(now);
        }
    }

    /// What of an attachment is not as ADD left it, after whatever can be put right was.
    pub(super) fn check(&mut self, attachment: &AttachmentId) -> Vec<String> {
        self.guard_hooks(Instant::now());
        let Some(endpoint) = self.state.endpoints().find(|endpoint| endpoint.attachment == *attachment)
        else {
            return vec!["the agent does not know this interface: run DEL, then ADD again".to_owned()];
        };
        let mut missing = self.dataplane.misplaced(endpoint);
        if !self.dataplane.observed().has_endpoint(endpoint) {
            missing.push(format!(
                "pod {}: its addresses are not in the maps: see `millrace status`",
                endpoint.pod
            ));
        }
        missing
    }

    /// Looks at the hooks now, and puts back what is not in its place. A repair stays a problem for a while.
    pub(super) fn guard_hooks(&mut self, now: Instant) {
        let guarded = self.dataplane.guard(self.state.endpoints());
        match self.guard.take(guarded, now) {
            Some(sentence) => self.problems.report(SUBJECT, &sentence),
            None => self.problems.resolve(SUBJECT),
        }
        self.noted.looked_at_hooks(self.dataplane.unattached(self.state.endpoints()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(repaired: &[&str], failed: &[&str]) -> Guarded {
        let owned = |sentences: &[&str]| sentences.iter().map(|&sentence| sentence.to_owned()).collect();
        Guarded { repaired: owned(repaired), failed: owned(failed) }
    }

    #[test]
    fn repairs_are_counted_and_failures_stay_unmet_until_the_next_look() {
        let now = Instant::now();
        let mut guard = HookGuard::new(now);
        assert_eq!(guard.take(guarded(&[], &[]), now), None);
        let sentence = guard.take(guarded(&["a was detached", "b was detached"], &[]), now).unwrap();
        assert!(sentence.contains("a was detached; b was detached; put back (repair 2"), "{sentence}");
        assert_eq!(guard.take(guarded(&[], &[]), now + MEMORY / 2).as_ref(), Some(&sentence));
        let later = now + MEMORY;
        let sentence = guard.take(guarded(&[], &["c: refused"]), later).unwrap();
        assert!(sentence.starts_with("c: refused; trying again"), "{sentence}");
        assert!(!sentence.contains("put back"), "{sentence}");
        assert_eq!(guard.unmet().collect::<Vec<_>>(), ["c: refused"]);
        assert_eq!(guard.take(guarded(&[], &[]), later), None);
        assert_eq!(guard.unmet().count(), 0);
        assert_eq!(guard.due, later + INTERVAL);
    }
}
