//! A set of few things, in the space that they take: there are tens of thousands of selectors, most of one label.
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// In order, none twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SmallSet<T>(Box<[T]>);

impl<T: Ord> SmallSet<T> {
    #[must_use]
    pub fn contains(&self, item: &T) -> bool {
        self.0.binary_search(item).is_ok()
    }
}

impl<T> Default for SmallSet<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> Deref for SmallSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Ord> FromIterator<T> for SmallSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items: Vec<T> = items.into_iter().collect();
        items.sort_unstable();
        items.dedup();
        Self(items.into())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for SmallSet<T> {
    fn from(items: [T; N]) -> Self {
        items.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::SmallSet;

    #[test]
    fn items_are_in_order_and_none_is_there_twice() {
        let set = SmallSet::from([3, 1, 3, 2]);
        assert_eq!(*set, [1, 2, 3]);
        assert_eq!(set, SmallSet::from([2, 3, 1]));
        assert_eq!([0, 1, 3, 4].map(|item| set.contains(&item)), [false, true, true, false]);
    }
}
