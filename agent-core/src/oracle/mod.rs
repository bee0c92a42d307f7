//! The reference: what policies and services mean, straight from the API's text, over the objects themselves.
//!
//! Slow and plain on purpose. It shares nothing with the compiler but the objects, and the tests hold compiler and
//! loaded programs against it.
mod policy;
mod service;

pub use self::{
    policy::{Judgement, Outcome, RuleRef, Side, Subject, judge},
    service::{Choice, keepers, resolve},
};
