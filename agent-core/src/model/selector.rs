//! Label selectors.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::small_set::SmallSet;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector: all requirements must hold; none holds for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelSelector {
    /// `matchLabels` arrive here as `In` with one value.
    pub requirements: SmallSet<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// What a requirement asks of the label's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    In(SmallSet<String>),
    /// Holds for objects without the label, too.
    NotIn(SmallSet<String>),
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether the selector matches an object with these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
