//! Watch events of one kind → differences.
use std::{collections::HashSet, marker::PhantomData};

use agent_core::update::Update;
use kube::runtime::watcher::Event;

use crate::{
    convert::{self, Convert, ObjectKey},
    ledger::Ledger,
    source::Batch,
};

/// Knows what was sent, and what a list that is under way has shown.
pub struct Feed<K> {
    ledger: Ledger,
    /// `None` outside a list.
    listed: Option<HashSet<ObjectKey>>,
    /// Differences of the list under way. They are sent together when it is complete, so that an endpoint that
    /// moved from one slice to another while nobody watched is never in neither.
    pending: Batch,
    synced: bool,
    kind: PhantomData<fn(K)>,
}

impl<K> Default for Feed<K> {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            listed: None,
            pending: Batch::default(),
            synced: false,
            kind: PhantomData,
        }
    }
}

impl<K: Convert> Feed<K> {
    /// Whether a list is under way.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.listed.is_some()
    }

    /// Takes an event in; adds to the batch what it changes.
    pub fn take(&mut self, event: Event<K>, batch: &mut Batch) {
        match event {
            // Differences of a list that broke off stay pending: the ledger counts them as sent.
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(object) => {
                let (key, outcome) = convert::convert(&object);
                self.listed.get_or_insert_default().insert(key.clone());
                let before = self.pending.updates.len();
                self.ledger.offer(key, outcome, &mut self.pending);
                note_trigger(&object, before, &mut self.pending);
            }
            Event::InitDone => {
                self.ledger.retain(&self.listed.take().unwrap_or_default(), &mut self.pending);
                batch.append(std::mem::take(&mut self.pending));
                if !self.synced {
                    self.synced = true;
                    batch.updates.push(Update::Synced(K::KIND));
                }
            }
            Event::Apply(object) => {
                let (key, outcome) = convert::convert(&object);
                let before = batch.updates.len();
                self.ledger.offer(key, outcome, batch);
                note_trigger(&object, before, batch);
            }
            Event::Delete(object) => self.ledger.withdraw(convert::key_of(&object), batch),
        }
    }
}

/// Notes why an object changed, if it made an update.
fn note_trigger<K: Convert>(object: &K, updates_before: usize, batch: &mut Batch) {
    if batch.updates.len() > updates_before {
        batch.triggers.extend(object.trigger());
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event::{self, Apply, Delete, Init, InitApply, InitDone};

    use super::Feed;
    use crate::{
        convert::{EndpointSlice, Namespace},
        source::{Batch, subject_of},
    };

    fn namespace(name: &str, labels: &str) -> Namespace {
        serde_saphyr::from_str(&format!("{{metadata: {{name: {name}, labels: {labels}}}}}")).unwrap()
    }

    fn take(feed: &mut Feed<Namespace>, events: impl IntoIterator<Item = Event<Namespace>>) -> Vec<String> {
        let mut batch = Batch::default();
        for event in events {
            feed.take(event, &mut batch);
        }
        batch.updates.iter().map(subject_of).collect()
    }

    #[test]
    fn a_slice_that_changes_brings_its_trigger_and_one_that_does_not_brings_none() {
        let slice = |address: &str, time: &str| -> EndpointSlice {
            serde_saphyr::from_str(&format!(
                "{{metadata: {{name: s, labels: {{kubernetes.io/service-name: web}}, annotations: \
                 {{endpoints.kubernetes.io/last-change-trigger-time: '{time}'}}}}, addressType: IPv4, \
                 endpoints: [{{addresses: [{address}]}}]}}"
            ))
            .unwrap()
        };
        let mut feed = Feed::default();
        let mut triggers = |event| {
            let mut batch = Batch::default();
            feed.take(event, &mut batch);
            batch.triggers.len()
        };
        let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        assert_eq!(triggers(Init), 0);
        assert_eq!(triggers(InitApply(slice("10.0.0.1", first))), 0);
        assert_eq!(triggers(InitDone), 1);
        assert_eq!(triggers(Apply(slice("10.0.0.1", second))), 0, "nothing that is in use differs");
        assert_eq!(triggers(Apply(slice("10.0.0.2", second))), 1);
        assert_eq!(triggers(Delete(slice("10.0.0.2", second))), 0);
    }

    #[test]
    fn a_first_list_is_sent_when_it_is_complete() {
        let mut feed = Feed::default();
        let listing = [Init, InitApply(namespace("a", "{}")), InitApply(namespace("b", "{}"))];
        assert!(take(&mut feed, listing).is_empty());
        assert_eq!(take(&mut feed, [InitDone]), ["+Namespace a", "+Namespace b", "synced Namespace"]);
    }

    #[test]
    fn an_empty_first_list_syncs_too() {
        assert_eq!(take(&mut Feed::default(), [Init, InitDone]), ["synced Namespace"]);
    }

    #[test]
    fn changes_are_sent_as_they_come() {
        let mut feed = Feed::default();
        take(&mut feed, [Init, InitDone]);
        assert_eq!(take(&mut feed, [Apply(namespace("a", "{}"))]), ["+Namespace a"]);
        assert!(take(&mut feed, [Apply(namespace("a", "{}"))]).is_empty(), "no difference");
        assert_eq!(take(&mut feed, [Apply(namespace("a", "{x: y}"))]), ["+Namespace a"]);
        assert_eq!(take(&mut feed, [Delete(namespace("a", "{}"))]), ["-Namespace a"]);
        assert!(take(&mut feed, [Delete(namespace("a", "{}"))]).is_empty(), "gone already");
    }

    #[test]
    fn another_list_sends_the_difference_and_what_vanished_meanwhile() {
        let mut feed = Feed::default();
        let names = ["a", "b", "c"];
        take(&mut feed, [Init]);
        take(&mut feed, names.map(|name| InitApply(namespace(name, "{}"))));
        take(&mut feed, [InitDone]);
        let relist = [
            Init,
            InitApply(namespace("a", "{}")),
            InitApply(namespace("b", "{x: y}")),
            InitApply(namespace("d", "{}")),
        ];
        assert!(take(&mut feed, relist).is_empty());
        assert_eq!(take(&mut feed, [InitDone]), ["+Namespace b", "+Namespace d", "-Namespace c"]);
    }

    #[test]
    fn a_list_that_breaks_off_deletes_nothing_and_loses_nothing() {
        let mut feed = Feed::default();
        take(&mut feed, [Init, InitApply(namespace("a", "{}")), InitDone]);
        assert!(take(&mut feed, [Init, InitApply(namespace("b", "{}"))]).is_empty());
        let again = [Init, InitApply(namespace("a", "{}")), InitApply(namespace("b", "{}")), InitDone];
        assert_eq!(take(&mut feed, again), ["+Namespace b"]);
    }
}
