//! Bytes as no kernel sends them.

/// As often is a message damaged.
const TRIES: u32 = 50_000;

/// A generator of numbers that does the same in each run: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or_default()
    }
}

/// Calls `read` with what is left of a valid message, with some of its bytes changed, and with bytes at random.
pub(super) fn damaged(valid: &[u8], mut read: impl FnMut(&[u8])) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for length in 0..=valid.len() {
        read(&valid[..length]);
    }
    for try_ in 0..TRIES {
        let mut bytes = valid.to_vec();
        if try_ % 4 == 0 {
            bytes.fill_with(|| numbers.next().to_be_bytes()[0]);
        }
        for _ in 0..=numbers.below(8) {
            let at = numbers.below(bytes.len());
            let value = numbers.next();
            if let Some(byte) = bytes.get_mut(at) {
                // Small numbers and large ones are lengths and offsets that almost fit.
                *byte = [value.to_be_bytes()[0], 0, 1, 4, 0xff, byte.wrapping_add(1)][numbers.below(6)];
            }
        }
        if numbers.below(4) == 0 {
            bytes.truncate(numbers.below(bytes.len()));
        }
        read(&bytes);
    }
}
