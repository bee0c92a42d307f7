//! Ranges of backend slots: which are free, which wait.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// How long a range that was given back is not handed out: a program may have read the frontend that pointed to it and be
/// about to read the slot, and the collector of flows remembers frontends for a part of its sweep.
pub const REST: Duration = Duration::from_secs(1);

/// Hands out contiguous ranges of slots. Those that were given back rest for [`REST`].
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Free ranges by start; neighbours are joined.
    free: BTreeMap<u32, u32>,
    /// The same by length, for the best fit.
    by_length: BTreeSet<(u32, u32)>,
    /// Given back: when, start and length, the earliest first.
    resting: VecDeque<(Duration, u32, u32)>,
    now: Duration,
}

impl Ranges {
    /// All slots below `size` are free.
    #[must_use]
    pub fn new(size: u32) -> Self {
        let mut ranges = Self {
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
            resting: VecDeque::new(),
            now: Duration::ZERO,
        };
        ranges.insert(0, size);
        ranges
    }

    /// Takes a range of a length: the smallest that fits.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let (found, start) = *self.by_length.range((length, 0)..).next()?;
        self.remove(start, found);
        self.insert(start + length, found - length);
        Some(start)
    }

    /// Takes one range. Returns whether all of it was free; if not, nothing is taken.
    pub fn reserve(&mut self, start: u32, length: u32) -> bool {
        let Some((&first, &found)) = self.free.range(..=start).next_back() else { return false };
        let Some(end) = start.checked_add(length).filter(|end| *end <= first + found) else { return false };
        self.remove(first, found);
        self.insert(first, start - first);
        self.insert(end, first + found - end);
        true
    }

    /// Gives a range back. It rests first.
    pub fn retire(&mut self, start: u32, length: u32) {
        self.resting.push_back((self.now, start, length));
    }

    /// Frees what has rested for long enough. `now` is the time since any moment, and never goes back.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        while let Some((_, start, length)) = self.resting.pop_front_if(|(retired, ..)| *retired + REST <= now)
        {
            self.free(start, length);
        }
    }

    /// Slots that rest.
    #[must_use]
    pub fn resting(&self) -> u32 {
        self.resting.iter().map(|(_, _, length)| length).sum()
    }

    /// Slots that are free.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.values().sum()
    }

    fn free(&mut self, start: u32, length: u32) {
        let (mut first, mut end) = (start, start + length);
        if let Some((&before, &found)) = self.free.range(..start).next_back()
            && before + found == start
        {
            self.remove(before, found);
            first = before;
        }
        if let Some(&found) = self.free.get(&end) {
            self.remove(end, found);
            end += found;
        }
        self.insert(first, end - first);
    }

    fn insert(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.free.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_range_that_was_given_back_rests_first() {
        let mut ranges = Ranges::new(4);
        assert_eq!(ranges.allocate(4), Some(0));
        ranges.advance(seconds(7.0));
        ranges.retire(0, 4);
        ranges.advance(seconds(7.9));
        assert_eq!((ranges.allocate(1), ranges.resting(), ranges.available()), (None, 4, 0));
        ranges.advance(seconds(8.0));
        assert_eq!((ranges.allocate(4), ranges.resting()), (Some(0), 0));
    }

    #[test]
    fn what_is_given_back_all_the_time_is_freed_all_the_time() {
        let mut ranges = Ranges::new(100);
        let mut held = ranges.allocate(20).unwrap();
        for round in 1..=1000 {
            ranges.advance(seconds(f64::from(round) * 0.4));
            let next = ranges.allocate(20);
            ranges.retire(held, 20);
            held = next.unwrap_or_else(|| panic!("round {round}: {} rest", ranges.resting()));
        }
    }

    #[test]
    fn neighbours_are_joined() {
        let mut ranges = Ranges::new(6);
        let starts: Vec<_> = (0..3).map(|_| ranges.allocate(2).unwrap()).collect();
        for (second, start) in [starts[0], starts[2], starts[1]].into_iter().enumerate() {
            ranges.retire(start, 2);
            ranges.advance(REST * u32::try_from(second + 1).unwrap());
        }
        assert_eq!(ranges.allocate(6), Some(0));
    }

    #[test]
    fn the_smallest_hole_that_fits_is_used() {
        let mut ranges = Ranges::new(20);
        assert!(ranges.reserve(5, 1) && ranges.reserve(9, 1));
        assert_eq!(ranges.allocate(3), Some(6));
        assert_eq!(ranges.allocate(5), Some(0));
        assert_eq!(ranges.allocate(10), Some(10));
        assert_eq!(ranges.available(), 0);
    }

    #[test]
    fn what_is_taken_or_out_of_bounds_cannot_be_reserved() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.reserve(2, 3));
        for (start, length) in [(4, 1), (0, 3), (1, 9), (9, 2), (11, 1), (u32::MAX, 2)] {
            assert!(!ranges.reserve(start, length), "{start}+{length}");
        }
        assert_eq!(ranges.available(), 7);
    }
}
