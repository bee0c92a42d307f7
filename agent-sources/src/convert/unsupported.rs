//! What this build does not carry out of an object that it uses: said once per object, not swallowed.
//!
//! A row goes when the product learns it.
use super::{Concern, Problems};

/// A field that is in use and not carried out.
pub(super) struct Row<T> {
    pub(super) field: &'static str,
    pub(super) concern: Concern,
    /// The value that is not carried out; `None`: the object does not ask for it.
    pub(super) asked: fn(&T) -> Option<String>,
    /// What does not happen; continues the field and its value.
    pub(super) missing: &'static str,
    pub(super) remedy: &'static str,
}

/// Notes what of an object is not carried out.
pub(super) fn note<T>(rows: &[Row<T>], object: &T, problems: &mut Problems) {
    for row in rows {
        if let Some(value) = (row.asked)(object) {
            problems.unsupported(row.concern, row.field, format!("is {value}: {}", row.missing), row.remedy);
        }
    }
}
