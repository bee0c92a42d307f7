//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Folds a sum of 16-bit words and complements it.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the sum is folded to 16 bits before")]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The one's complement difference between two sums of words, in 32 bits: what a checksum over them changes by.
#[must_use]
#[inline(always)]
pub const fn difference(old: u64, new: u64) -> u32 {
    reduce(new + !reduce(old) as u64)
}

/// A checksum after the words that it covers have changed by a [`difference`].
#[must_use]
#[inline(always)]
pub const fn updated(checksum: u16, difference: u32) -> u16 {
    fold(!checksum as u64 + difference as u64)
}

/// Adds the carries of a sum to it until it has 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the carries are added before")]
const fn reduce(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Adds the 16-bit words of `data`, in the byte order of the machine.
#[must_use]
pub fn sum(data: &[u8]) -> u64 {
    let mut chunks = data.chunks_exact(2);
    let words: u64 = chunks.by_ref().map(|c| u64::from(u16::from_ne_bytes([c[0], c[1]]))).sum();
    words + chunks.remainder().first().map_or(0, |last| u64::from(u16::from_ne_bytes([*last, 0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_rfc_1071_example_is_right() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&data)).to_ne_bytes(), [0x22, 0x0d]);
    }

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        let mut data = [0x45, 0, 0, 0x54, 0, 0, 0x40, 0, 0x40, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let checksum = fold(sum(&data)).to_ne_bytes();
        data[10..12].copy_from_slice(&checksum);
        assert_eq!(fold(sum(&data)), 0);
    }

    #[test]
    fn an_updated_checksum_is_that_of_the_new_words() {
        let words = |data: &[u8; 8]| {
            let word = |at: usize| {
                u64::from(u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]))
            };
            word(0) + word(4)
        };
        let samples: [[u8; 8]; 4] =
            [[10, 0, 0, 1, 10, 96, 0, 1], [255; 8], [0; 8], [172, 16, 254, 3, 192, 0, 2, 255]];
        for old in samples {
            for new in samples {
                let before = fold(sum(&old) + 0x1234);
                let after = updated(before, difference(words(&old), words(&new)));
                // All ones and zero are one number.
                let expected = fold(sum(&new) + 0x1234);
                assert_eq!(after % 0xffff, expected % 0xffff, "{old:?} -> {new:?}");
            }
        }
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_high_byte() {
        assert_eq!(sum(&[0xab]), u64::from(u16::from_ne_bytes([0xab, 0])));
    }
}
