//! Which of many selectors may match an object, found without asking each of them.
use std::collections::HashMap;

use crate::model::{
    selector::{LabelSelector, Labels, Operator},
    small_set::SmallSet,
};

/// Selectors, each by the name of what it belongs to.
#[derive(Clone, Debug, Default)]
pub(super) struct SelectorIndex {
    /// Those that ask for one of some values of a label: under each of them, by key and value.
    by_label: HashMap<String, HashMap<String, Vec<String>>>,
    /// Those that ask for no value.
    others: Vec<String>,
}

impl SelectorIndex {
    pub(super) fn insert(&mut self, name: &str, selector: &LabelSelector) {
        self.change(selector, |names| {
            if let Err(at) = names.binary_search_by(|known| known.as_str().cmp(name)) {
                names.insert(at, name.to_owned());
            }
        });
    }

    /// Forgets a selector, as it was inserted.
    pub(super) fn remove(&mut self, name: &str, selector: &LabelSelector) {
        self.change(selector, |names| {
            if let Ok(at) = names.binary_search_by(|known| known.as_str().cmp(name)) {
                names.remove(at);
            }
        });
        let Some((key, values)) = filed_under(selector) else { return };
        let Some(by_value) = self.by_label.get_mut(key) else { return };
        for value in values.iter() {
            if by_value.get(value).is_some_and(Vec::is_empty) {
                by_value.remove(value);
            }
        }
        if by_value.is_empty() {
            self.by_label.remove(key);
        }
    }

    fn change(&mut self, selector: &LabelSelector, mut change: impl FnMut(&mut Vec<String>)) {
        let Some((key, values)) = filed_under(selector) else { return change(&mut self.others) };
        let by_value = self.by_label.entry(key.to_owned()).or_default();
        for value in values.iter() {
            change(by_value.entry(value.clone()).or_default());
        }
    }

    /// All whose selector matches an object with these labels, and perhaps more; none twice.
    pub(super) fn candidates(&self, labels: &Labels) -> impl Iterator<Item = &str> {
        let of_label = |(key, value): (&String, &String)| self.by_label.get(key)?.get(value);
        labels.iter().filter_map(of_label).chain([&self.others]).flatten().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_label.is_empty() && self.others.is_empty()
    }
}

/// The label under which a selector is filed, and the values of it that can match.
fn filed_under(selector: &LabelSelector) -> Option<(&str, &SmallSet<String>)> {
    selector.requirements.iter().find_map(|requirement| match &requirement.operator {
        Operator::In(values) => Some((requirement.key.as_str(), values)),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::selector::Requirement;

    fn selector(requirements: &[(&str, Operator)]) -> LabelSelector {
        let requirement = |(key, operator): &(&str, Operator)| Requirement {
            key: (*key).to_owned(),
            operator: operator.clone(),
        };
        LabelSelector { requirements: requirements.iter().map(requirement).collect() }
    }

    fn one_of<const N: usize>(values: [&str; N]) -> Operator {
        Operator::In(values.map(str::to_owned).into())
    }

    fn labels(labels: &[(&str, &str)]) -> Labels {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn all() -> Vec<(&'static str, LabelSelector)> {
        vec![
            ("everything", LabelSelector::default()),
            ("web", selector(&[("app", one_of(["web"]))])),
            ("web-or-db", selector(&[("app", one_of(["web", "db"]))])),
            ("web-in-front", selector(&[("app", one_of(["web"])), ("tier", one_of(["front"]))])),
            ("new", selector(&[("old", Operator::DoesNotExist)])),
            ("not-web", selector(&[("app", Operator::NotIn(["web".to_owned()].into()))])),
            ("tiered", selector(&[("tier", Operator::Exists), ("app", one_of(["web"]))])),
        ]
    }

    #[test]
    fn every_selector_that_matches_is_a_candidate_once() {
        let mut index = SelectorIndex::default();
        for (name, selector) in &all() {
            index.insert(name, selector);
        }
        let objects: [&[(&str, &str)]; 5] = [
            &[],
            &[("app", "web")],
            &[("app", "db"), ("old", "1")],
            &[("app", "web"), ("tier", "front")],
            &[("tier", "web")],
        ];
        for object in objects {
            let labels = labels(object);
            let mut candidates: Vec<&str> = index.candidates(&labels).collect();
            candidates.sort_unstable();
            let once = candidates.len();
            candidates.dedup();
            assert_eq!(candidates.len(), once, "{labels:?}");
            for (name, selector) in &all() {
                assert!(!selector.matches(&labels) || candidates.contains(name), "{name}: {labels:?}");
            }
        }
        let db = labels(&[("app", "db")]);
        assert!(index.candidates(&db).all(|name| name != "web"), "those of other values are left out");
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let mut index = SelectorIndex::default();
        for (name, selector) in &all() {
            index.insert(name, selector);
            // Once more changes nothing.
            index.insert(name, selector);
        }
        for (name, selector) in &all() {
            index.remove(name, selector);
            assert!(index.candidates(&labels(&[("app", "web")])).all(|left| left != *name), "{name}");
        }
        assert!(index.is_empty());
    }
}
