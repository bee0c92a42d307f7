//! Hashing: for the choice of backends, and to tell reused map elements apart.

/// Mixes 64 bits so that each input bit changes about half of the output bits (the finaliser of `SplitMix64`).
#[must_use]
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Maps a random word to `0..count` without a division; `count` must not be 0.
#[must_use]
#[inline(always)]
pub const fn pick(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

/// A number that two different sequences of words hardly ever share: one multiplication a word.
#[must_use]
#[inline(always)]
pub const fn tag<const N: usize>(words: &[u64; N]) -> u32 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut at = 0;
    while at < N {
        state = (state ^ words[at]).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 32;
        at += 1;
    }
    (state.wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pick_stays_in_range_and_reaches_both_ends() {
        assert_eq!(pick(0, 7), 0);
        assert_eq!(pick(u32::MAX, 7), 6);
        assert_eq!(pick(u32::MAX, 1), 0);
    }

    #[test]
    fn consecutive_inputs_spread_evenly() {
        let mut buckets = [0u32; 8];
        for input in 0..80_000u64 {
            buckets[pick((mix(input) >> 32) as u32, 8) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (9_500..10_500).contains(count)), "{buckets:?}");
    }

    #[test]
    fn tags_of_neighbouring_keys_differ() {
        let mut tags: [u32; 4096] = core::array::from_fn(|at| tag(&[at as u64 & 63, (at as u64) >> 6]));
        tags.sort_unstable();
        assert!(tags.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
