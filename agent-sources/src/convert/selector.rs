//! Label selectors.
use std::collections::BTreeMap;

use agent_core::model::selector::{self, LabelSelector, Operator, Requirement};
use serde::{Deserialize, de::IgnoredAny};

use super::{Problems, metadata::or_default};

/// A label selector, on the wire.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    #[serde(default, deserialize_with = "or_default")]
    match_labels: selector::Labels,
    #[serde(default, deserialize_with = "or_default")]
    match_expressions: Vec<Expression>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Debug, Deserialize)]
struct Expression {
    #[serde(default)]
    key: String,
    #[serde(default)]
    operator: String,
    #[serde(default, deserialize_with = "or_default")]
    values: Vec<String>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// Fields that nothing here understands. What a restriction is not understood from must not be widened by
/// dropping it: a misspelt `from` would allow everybody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
#[expect(clippy::zero_sized_map_values, reason = "serde flattens what is left into a map, not into a set")]
pub struct UnknownFields(BTreeMap<String, IgnoredAny>);

impl UnknownFields {
    /// Notes each; true when there is one.
    pub fn note(&self, at: &str, problems: &mut Problems) -> bool {
        for name in self.0.keys() {
            problems.note(format!("{at}.{name}"), "is no known field", "check its spelling and indentation");
        }
        !self.0.is_empty()
    }
}

/// Parses a selector. `None` when a requirement cannot be honoured; what is wrong is noted.
pub fn convert(wire: &Selector, at: &str, problems: &mut Problems) -> Option<LabelSelector> {
    let mut usable = !wire.unknown.note(at, problems);
    let mut requirements = Vec::new();
    for (key, value) in &wire.match_labels {
        let field = format!("{at}.matchLabels");
        usable &= checked(&field, label_key(key), problems) && checked(&field, label_value(value), problems);
        let operator = Operator::In([value.clone()].into());
        requirements.push(Requirement { key: key.clone(), operator });
    }
    for (index, expression) in wire.match_expressions.iter().enumerate() {
        let field = format!("{at}.matchExpressions[{index}]");
        match requirement(expression, &field, problems) {
            Some(requirement) => requirements.push(requirement),
            None => usable = false,
        }
    }
    usable.then(|| LabelSelector { requirements: requirements.into_iter().collect() })
}

fn requirement(wire: &Expression, at: &str, problems: &mut Problems) -> Option<Requirement> {
    let mut usable = !wire.unknown.note(at, problems);
    usable &= checked(&format!("{at}.key"), label_key(&wire.key), problems);
    for value in &wire.values {
        usable &= checked(&format!("{at}.values"), label_value(value), problems);
    }
    let values = wire.values.iter().cloned().collect();
    let operator = match (wire.operator.as_str(), wire.values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            let problem = format!("is empty, but operator {} compares with values", wire.operator);
            problems.note(format!("{at}.values"), problem, "list the values");
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            let problem = format!("is not empty, but operator {} takes no values", wire.operator);
            problems.note(format!("{at}.values"), problem, "remove the values, or use In or NotIn");
            return None;
        }
        (other, _) => {
            let problem = format!("is {other:?}, which is no known operator");
            problems.note(format!("{at}.operator"), problem, "use In, NotIn, Exists or DoesNotExist");
            return None;
        }
    };
    usable.then(|| Requirement { key: wire.key.clone(), operator })
}

fn checked(field: &str, value: Result<(), String>, problems: &mut Problems) -> bool {
    problems.check(field, value, "use letters, digits, '-', '_' and '.', as labels have them").is_some()
}

/// `name` or `prefix/name`.
fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_subdomain = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.split('.').all(|part| {
                is_bounded_by_alphanumerics(part)
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    });
    if prefix_is_subdomain && !name.is_empty() && is_label_text(name) {
        Ok(())
    } else {
        Err(format!("holds {key:?}, which is no label key"))
    }
}

fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        Ok(())
    } else {
        Err(format!("holds {value:?}, which is no label value"))
    }
}

fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && is_bounded_by_alphanumerics(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_bounded_by_alphanumerics(text: &str) -> bool {
    let is_alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_alphanumeric(text.as_bytes().first()) && is_alphanumeric(text.as_bytes().last())
}
