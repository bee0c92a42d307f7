//! The files of the directory, merged: what they say together, and what that changes.
//!
//! A file that cannot be parsed keeps what it said before, also from one start of the agent to the next. The first
//! file by name wins an object that several define. A change costs what changed, not the size of the directory.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use agent_core::{
    model::{ObjectName, selector::Labels},
    update::{Kind, Update},
};

use super::{
    copies::{Content, Loaded},
    directory::Findings,
    document::{self, Parsed},
};
use crate::{
    convert::{Applied, ObjectKey, Outcome, namespace},
    ledger::Ledger,
    source::{Batch, Report, Subject},
};

/// Where an object is: the file and the place in it. The lowest wins.
type Place = (Arc<str>, usize);

/// What a reading changes.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub batch: Batch,
    /// What the copies are to hold.
    pub copies: BTreeMap<String, Content>,
}

/// The last good content of every file.
#[derive(Debug, Default)]
pub struct Catalog {
    /// From before the start; taken in with the first complete reading.
    copies: Loaded,
    /// Why the copy of a file is of no use.
    damaged_copies: BTreeMap<String, String>,
    files: BTreeMap<String, Parsed>,
    /// In order; almost always one.
    places: BTreeMap<ObjectKey, Vec<Place>>,
    /// How many keys use a namespace.
    residents: BTreeMap<String, usize>,
    /// Files that cannot be used, and why.
    broken: BTreeMap<String, Vec<String>>,
    duplicates: BTreeSet<ObjectKey>,
    unreadable: Option<String>,
    synced: bool,
    ledger: Ledger,
}

impl Catalog {
    /// Begins with the copies of before.
    #[must_use]
    pub fn new(copies: Loaded) -> Self {
        Self { copies, ..Self::default() }
    }

    /// Takes in what was read; returns what it changes.
    pub fn take(&mut self, findings: Findings) -> Taken {
        let mut taken = Taken::default();
        let Taken { batch, copies } = &mut taken;
        if self.unreadable != findings.unreadable {
            let problems = findings.unreadable.iter().cloned().collect();
            batch.reports.push(Report { subject: Subject::Source, problems });
            self.unreadable = findings.unreadable;
        }
        if self.unreadable.is_some() {
            return taken;
        }
        if findings.complete && !self.synced {
            self.restore(&findings.files, batch, copies);
        }
        let mut touched = BTreeSet::new();
        for (name, content) in findings.files {
            match content {
                None => {
                    self.report_file(&name, Vec::new(), batch);
                    self.replace(&name, Parsed::default(), &mut touched);
                    copies.insert(name, Content::Gone);
                }
                Some(Err(problem)) => self.report_file(&name, vec![problem], batch),
                Some(Ok(text)) => match document::parse(&name, &text) {
                    Ok(parsed) => {
                        let content = if parsed.is_good() { Content::Good } else { Content::PartlyGood };
                        self.report_file(&name, Vec::new(), batch);
                        self.replace(&name, parsed, &mut touched);
                        copies.insert(name, content(text));
                    }
                    Err(errors) => {
                        self.report_file(&name, errors.iter().map(ToString::to_string).collect(), batch);
                    }
                },
            }
        }
        self.settle_all(touched, batch);
        if findings.complete && !self.synced {
            self.synced = true;
            batch.updates.extend(Kind::ALL.map(Update::Synced));
        }
        taken
    }

    /// Puts the copies of the files that are there in force, for the files to build on.
    fn restore(
        &mut self,
        files: &BTreeMap<String, Option<Result<String, String>>>,
        batch: &mut Batch,
        copies: &mut BTreeMap<String, Content>,
    ) {
        let mut touched = BTreeSet::new();
        for (name, copy) in std::mem::take(&mut self.copies) {
            // Deleting a file deletes its objects, also while no agent runs.
            let Some(Some(_)) = files.get(&name) else {
                copies.insert(name, Content::Gone);
                continue;
            };
            match copy.and_then(|text| document::parse(&name, &text).map_err(|errors| errors[0].to_string()))
            {
                Ok(parsed) => self.replace(&name, parsed, &mut touched),
                Err(damage) => {
                    let problem = format!(
                        "manifest {name}: the copy of what it said before cannot be used ({damage}); mend the manifest"
                    );
                    self.damaged_copies.insert(name, problem);
                }
            }
        }
        self.settle_all(touched, batch);
    }

    fn settle_all(&mut self, mut touched: BTreeSet<ObjectKey>, batch: &mut Batch) {
        // Namespaces come and go with their residents.
        let namespaces: BTreeSet<_> = touched.iter().filter_map(namespace_of).collect();
        touched.extend(namespaces);
        for key in touched {
            self.settle(key, batch);
        }
    }

    fn report_file(&mut self, name: &str, mut problems: Vec<String>, batch: &mut Batch) {
        let consequence = if self.files.contains_key(name) {
            "what the file said before stays in force"
        } else {
            "the file is ignored"
        };
        for problem in &mut problems {
            *problem = format!("{problem}; until then {consequence}");
        }
        if problems.is_empty() {
            // The copy is written anew, or removed.
            self.damaged_copies.remove(name);
        } else {
            problems.extend(self.damaged_copies.get(name).cloned());
        }
        let earlier = if problems.is_empty() {
            self.broken.remove(name)
        } else {
            self.broken.insert(name.to_owned(), problems.clone())
        };
        if earlier.unwrap_or_default() != problems {
            batch.reports.push(Report { subject: Subject::File(name.to_owned()), problems });
        }
    }

    /// Puts a file's new content in the place of the old; collects the keys of both.
    fn replace(&mut self, name: &str, parsed: Parsed, touched: &mut BTreeSet<ObjectKey>) {
        let earlier = self.files.remove(name).unwrap_or_default();
        for kind in parsed.ignored.difference(&earlier.ignored) {
            tracing::info!("manifest {name}: {kind} is nothing to the dataplane and ignored");
        }
        let file: Arc<str> = name.into();
        for (index, (key, _)) in earlier.objects.into_iter().enumerate() {
            self.remove_place(&key, &(Arc::clone(&file), index));
            touched.insert(key);
        }
        for (index, (key, _)) in parsed.objects.iter().enumerate() {
            self.add_place(key, (Arc::clone(&file), index));
            touched.insert(key.clone());
        }
        if parsed != Parsed::default() {
            self.files.insert(name.to_owned(), parsed);
        }
    }

    fn add_place(&mut self, key: &ObjectKey, place: Place) {
        let places = self.places.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
        if places.is_empty() && !key.name.namespace.is_empty() {
            *self.residents.entry(key.name.namespace.clone()).or_default() += 1;
        }
        if let Err(at) = places.binary_search(&place) {
            places.insert(at, place);
        }
    }

    fn remove_place(&mut self, key: &ObjectKey, place: &Place) {
        let Some(places) = self.places.get_mut(key) else { return };
        if let Ok(at) = places.binary_search(place) {
            places.remove(at);
        }
        if !places.is_empty() {
            return;
        }
        self.places.remove(key);
        if let Some(residents) = self.residents.get_mut(&key.name.namespace) {
            *residents -= 1;
            if *residents == 0 {
                self.residents.remove(&key.name.namespace);
            }
        }
    }

    /// Brings the ledger in line with the places of a key.
    fn settle(&mut self, key: ObjectKey, batch: &mut Batch) {
        self.report_duplicate(&key, batch);
        match self.outcome(&key) {
            Some(outcome) => self.ledger.offer(key, outcome, batch),
            None => self.ledger.withdraw(key, batch),
        }
    }

    /// What the manifests say about a key. A namespace that is only used exists, too.
    fn outcome(&self, key: &ObjectKey) -> Option<Outcome<Applied>> {
        let place = self.places.get(key).and_then(|places| places.first());
        if let Some((file, index)) = place {
            return self.files.get(&**file)?.objects.get(*index).map(|(_, outcome)| outcome.clone());
        }
        let is_used = key.kind == Kind::Namespace && self.residents.contains_key(&key.name.name);
        is_used.then(|| {
            let model = namespace::named(&key.name.name, Labels::new());
            Outcome::Usable { model: Applied::new::<namespace::Namespace>(model), skipped: Vec::new() }
        })
    }

    fn report_duplicate(&mut self, key: &ObjectKey, batch: &mut Batch) {
        let places = self.places.get(key);
        let problems: Vec<String> = match places.map(Vec::as_slice) {
            Some([(first, _), others @ ..]) if !others.is_empty() => {
                let mut others: Vec<&str> = others.iter().map(|(file, _)| &**file).collect();
                others.dedup();
                let others = others.join(", ");
                vec![format!(
                    "{key}: is defined in {first} and again in {others}; the first counts, remove the other"
                )]
            }
            _ => Vec::new(),
        };
        let was_duplicate = if problems.is_empty() {
            self.duplicates.remove(key)
        } else {
            !self.duplicates.insert(key.clone())
        };
        if was_duplicate || !problems.is_empty() {
            batch.reports.push(Report { subject: Subject::Duplicate(key.clone()), problems });
        }
    }
}

/// The namespace that an object is in, as an object.
fn namespace_of(key: &ObjectKey) -> Option<ObjectKey> {
    let namespace = &key.name.namespace;
    (!namespace.is_empty()).then(|| ObjectKey { kind: Kind::Namespace, name: ObjectName::new("", namespace) })
}

#[cfg(test)]
mod tests {
    use super::{Catalog, Taken};
    use crate::{
        manifests::directory::Findings,
        open_problems::{Attention, OpenProblems},
        source::{Batch, subject_of},
    };

    /// Takes file contents in: `Some(text)` for what they say, `None` for gone.
    fn take(catalog: &mut Catalog, files: &[(&str, Option<&str>)]) -> (Vec<String>, Batch) {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.map(|text| Ok(text.to_owned()))))
            .collect();
        let Taken { batch, .. } = catalog.take(Findings { files, complete: true, ..Findings::default() });
        let updates =
            batch.updates.iter().map(subject_of).filter(|text| !text.starts_with("synced")).collect();
        (updates, batch)
    }

    fn sentences(batches: impl IntoIterator<Item = Batch>) -> Vec<String> {
        let mut open = OpenProblems::default();
        let reports = batches.into_iter().flat_map(|batch| batch.reports);
        open.record(reports, |_| Attention::Log, std::time::Instant::now());
        open.sentences(|_| true)
    }

    fn pod(name: &str, labels: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {labels}}}\n")
    }

    #[test]
    fn the_first_complete_reading_syncs_every_kind_once() {
        let mut catalog = Catalog::default();
        let (_, batch) = take(&mut catalog, &[]);
        assert_eq!(batch.updates.len(), 6);
        assert!(take(&mut catalog, &[]).1.is_empty());
    }

    #[test]
    fn a_namespace_that_is_only_used_exists_as_long_as_it_is_used() {
        let mut catalog = Catalog::default();
        let (updates, _) = take(&mut catalog, &[("a.yaml", Some(&pod("web", "{}")))]);
        assert_eq!(updates, ["+Pod shop/web", "+Namespace shop"]);
        let (updates, _) = take(&mut catalog, &[("b.yaml", Some(&pod("db", "{}")))]);
        assert_eq!(updates, ["+Pod shop/db"]);
        let defined = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: red}}}";
        assert_eq!(take(&mut catalog, &[("c.yaml", Some(defined))]).0, ["+Namespace shop"]);
        assert_eq!(take(&mut catalog, &[("c.yaml", None)]).0, ["+Namespace shop"]);
        assert_eq!(take(&mut catalog, &[("a.yaml", None)]).0, ["-Pod shop/web"]);
        assert_eq!(take(&mut catalog, &[("b.yaml", None)]).0, ["-Pod shop/db", "-Namespace shop"]);
    }

    #[test]
    fn a_broken_file_keeps_what_it_said_and_the_others_go_on() {
        let mut catalog = Catalog::default();
        let (_, first) = take(&mut catalog, &[("a.yaml", Some(&pod("web", "{}")))]);
        let broken = format!("{}---\nkind: [\n", pod("other", "{}"));
        let (updates, second) =
            take(&mut catalog, &[("a.yaml", Some(&broken)), ("b.yaml", Some(&pod("db", "{}")))]);
        assert_eq!(updates, ["+Pod shop/db"], "nothing of the broken file is applied, nothing of it is lost");
        let open = sentences([first.clone(), second.clone()]);
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(open[0].starts_with("manifest a.yaml, document 2"), "{open:?}");
        assert!(open[0].ends_with("until then what the file said before stays in force"), "{open:?}");
        let (updates, third) = take(&mut catalog, &[("a.yaml", Some(&pod("other", "{}")))]);
        assert_eq!(updates, ["+Pod shop/other", "-Pod shop/web"]);
        assert!(sentences([first, second, third]).is_empty());
    }

    #[test]
    fn the_first_file_by_name_wins_and_the_next_takes_over_when_it_is_gone() {
        let mut catalog = Catalog::default();
        let (_, first) = take(&mut catalog, &[("b.yaml", Some(&pod("web", "{from: b}")))]);
        let (updates, second) = take(&mut catalog, &[("a.yaml", Some(&pod("web", "{from: a}")))]);
        assert_eq!(updates, ["+Pod shop/web"]);
        let expected =
            "Pod shop/web: is defined in a.yaml and again in b.yaml; the first counts, remove the other";
        assert_eq!(sentences([first.clone(), second.clone()]), [expected]);
        let (updates, _) = take(&mut catalog, &[("b.yaml", Some(&pod("web", "{from: c}")))]);
        assert!(updates.is_empty(), "{updates:?}");
        let (updates, third) = take(&mut catalog, &[("a.yaml", None)]);
        assert_eq!(updates, ["+Pod shop/web"]);
        assert!(sentences([first, second, third]).is_empty());
    }

    #[test]
    fn an_unreadable_directory_deletes_nothing() {
        let mut catalog = Catalog::default();
        take(&mut catalog, &[("a.yaml", Some(&pod("web", "{}")))]);
        let findings =
            Findings { unreadable: Some("gone".to_owned()), complete: true, ..Findings::default() };
        let Taken { batch: gone, copies } = catalog.take(findings);
        assert!(copies.is_empty(), "{copies:?}");
        assert!(gone.updates.is_empty());
        assert_eq!(sentences([gone.clone()]), ["gone"]);
        let (_, back) = take(&mut catalog, &[]);
        assert!(sentences([gone, back]).is_empty());
    }
}
