//! Label selectors: policy.md S38.
use agent_core::model::{
    selector::{LabelSelector, Operator},
    small_set::SmallSet,
};

use crate::lab::objects::{labels, require, selecting};

fn values(values: &[&str]) -> SmallSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn both(one: &LabelSelector, other: &LabelSelector) -> LabelSelector {
    LabelSelector { requirements: [one, other].iter().flat_map(|of| of.requirements.to_vec()).collect() }
}

#[test]
fn operators_treat_a_missing_label_as_the_api_says() {
    let cases = [
        (Operator::In(values(&["a", "b"])), [true, true, false, false]),
        (Operator::NotIn(values(&["a", "b"])), [false, false, true, true]),
        (Operator::Exists, [true, true, true, false]),
        (Operator::DoesNotExist, [false, false, false, true]),
    ];
    for (operator, expected) in cases {
        let selector = require("app", operator);
        let found = ["app=a", "app=b", "app=c", "tier=a"].map(|text| selector.matches(&labels(text)));
        assert_eq!(found, expected, "{selector:?}");
    }
}

#[test]
fn all_requirements_must_hold() {
    let selector = selecting("app=a tier=front");
    assert!(selector.matches(&labels("app=a tier=front more=x")));
    assert!(!selector.matches(&labels("app=a")));
    let selector = both(&selector, &require("old", Operator::DoesNotExist));
    assert!(selector.matches(&labels("app=a tier=front")));
    assert!(!selector.matches(&labels("app=a tier=front old=1")));
}

#[test]
fn not_in_several_values_excludes_each_of_them() {
    let [a, b] = ["a", "b"].map(|value| require("app", Operator::NotIn(values(&[value]))));
    let selector = both(&a, &b);
    assert_eq!(["app=a", "app=b", "app=c"].map(|text| selector.matches(&labels(text))), [false, false, true]);
}

#[test]
fn the_empty_selector_matches_everything() {
    assert!(LabelSelector::default().matches(&labels("")));
    assert!(LabelSelector::default().matches(&labels("app=a")));
}

#[test]
fn an_empty_value_is_a_value() {
    let empty = [("app", "")];
    let object = crate::lab::objects::label_map(&empty);
    assert!(require("app", Operator::Exists).matches(&object));
    assert!(require("app", Operator::In(values(&[""]))).matches(&object));
    assert!(!require("app", Operator::NotIn(values(&[""]))).matches(&object));
}
