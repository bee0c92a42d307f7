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
    fn an_odd_last_byte_counts_as_the_high_byte() {
        assert_eq!(sum(&[0xab]), u64::from(u16::from_ne_bytes([0xab, 0])));
    }
}
