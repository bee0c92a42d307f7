//! Searching a sorted range of slots.

/// The first slot of a range whose content is not below what is searched; the last slot when all are below, and
/// `None` when the range is empty. `is_below` tells it of one slot.
///
/// As many steps for every range, and no early end: the verifier walks them once.
#[must_use]
#[inline(always)]
pub fn lower_bound(start: u32, count: u16, is_below: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut first, mut left) = (start, u32::from(count));
    // Each step halves what is left, rounded up: 16 steps bring the 65,535 slots that a count can name to one.
    for _ in 0..u16::BITS {
        let half = left / 2;
        // Of one slot, half is none: the step changes nothing.
        if half != 0 && is_below(first + half - 1) {
            first += half;
        }
        left -= half;
    }
    (count != 0).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots from `START` on that hold the even numbers from 2 on.
    const START: u32 = 40;

    fn content(slot: u32) -> u32 {
        (slot - START + 1) * 2
    }

    fn contains(count: u16, wanted: u32) -> bool {
        let end = START + u32::from(count);
        let found = lower_bound(START, count, |slot| {
            assert!((START..end).contains(&slot), "slot {slot} is not of the range");
            content(slot) < wanted
        });
        found.is_some_and(|slot| {
            assert!((START..end).contains(&slot), "slot {slot} is not of the range");
            content(slot) == wanted
        })
    }

    #[test]
    fn what_a_range_holds_is_found_and_nothing_else() {
        for count in (0..=300).chain([4095, 4096, 4097, 32_767, 32_768, 32_769, u16::MAX - 1, u16::MAX]) {
            let last = u32::from(count) * 2;
            let every = if count <= 300 { 1 } else { 977 };
            for wanted in (0..=last + 3).step_by(every).chain([2, last, last + 1, last + 2]) {
                let held = wanted != 0 && wanted % 2 == 0 && wanted <= last;
                assert_eq!(contains(count, wanted), held, "{wanted} in {count}");
            }
        }
    }
}
