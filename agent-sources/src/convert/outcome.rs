//! What a conversion gives back: a model, or sentences that name the object, the field and the remedy.
use super::{Convert, ObjectKey, key_of};

/// What a sentence about an object is about. Each is reported by itself, and goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Concern {
    /// A field that makes no sense.
    Wrong,
    /// A field that this build does not carry out.
    Unsupported,
    /// The same, of what a kube-proxy beside this agent does: who comes from outside the cluster.
    Outside,
}

impl Concern {
    pub const ALL: [Self; 3] = [Self::Wrong, Self::Unsupported, Self::Outside];
}

/// A part of an object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field} {problem}; {remedy}")]
pub struct InvalidObject {
    /// Kind, namespace and name.
    pub object: ObjectKey,
    pub concern: Concern,
    /// Path of the field, as `kubectl explain` spells it.
    pub field: String,
    /// What is wrong; continues the field.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The object is nothing to the dataplane: a headless Service, a slice of no Service.
    Irrelevant,
    /// Usable. Items that say nothing usable were skipped, as Kubernetes does.
    Usable { model: T, skipped: Vec<InvalidObject> },
    /// Not usable as it is: an earlier good version stays in force. Without one, the stand-in is used: never
    /// more permissive than what was meant.
    Invalid { stand_in: Option<T>, problems: Vec<InvalidObject> },
}

impl<T> Outcome<T> {
    /// The same outcome with another model.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Irrelevant => Outcome::Irrelevant,
            Self::Usable { model, skipped } => Outcome::Usable { model: change(model), skipped },
            Self::Invalid { stand_in, problems } => {
                Outcome::Invalid { stand_in: stand_in.map(change), problems }
            }
        }
    }
}

/// Collects the problems of one object.
#[derive(Debug)]
pub struct Problems {
    object: ObjectKey,
    found: Vec<InvalidObject>,
}

impl Problems {
    #[must_use]
    pub fn of<K: Convert>(object: &K) -> Self {
        Self { object: key_of(object), found: Vec::new() }
    }

    /// Notes a problem.
    pub fn note(&mut self, field: impl Into<String>, problem: impl Into<String>, remedy: &'static str) {
        self.push(Concern::Wrong, field, problem, remedy);
    }

    /// Notes a field that is right, but not carried out.
    pub fn unsupported(
        &mut self,
        concern: Concern,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: &'static str,
    ) {
        self.push(concern, field, problem, remedy);
    }

    fn push(
        &mut self,
        concern: Concern,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: &'static str,
    ) {
        self.found.push(InvalidObject {
            object: self.object.clone(),
            concern,
            field: field.into(),
            problem: problem.into(),
            remedy,
        });
    }

    /// The value, or a note about the field.
    pub fn check<T>(&mut self, field: &str, value: Result<T, String>, remedy: &'static str) -> Option<T> {
        value.map_err(|problem| self.note(field, problem, remedy)).ok()
    }

    /// The model as it is: what was noted is no more than skipped.
    #[must_use]
    pub fn skipped<T>(self, model: T) -> Outcome<T> {
        Outcome::Usable { model, skipped: self.found }
    }

    /// The model if nothing is wrong, else the model as stand-in.
    #[must_use]
    pub fn stand_in<T>(self, model: T) -> Outcome<T> {
        if self.found.iter().all(|found| found.concern != Concern::Wrong) {
            self.skipped(model)
        } else {
            Outcome::Invalid { stand_in: Some(model), problems: self.found }
        }
    }

    /// Nothing usable.
    #[must_use]
    pub fn nothing<T>(self) -> Outcome<T> {
        Outcome::Invalid { stand_in: None, problems: self.found }
    }
}
