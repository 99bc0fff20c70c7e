//! Bytes that tell where they stand, so that a lost, doubled or swapped piece of a stream is seen. In: an offset. Out: the
//! bytes from there on. Never: memory for the whole.

/// Not a divisor of any packet size, so that pieces swapped for one another never look alike.
const PERIOD: usize = 251;

/// Bytes to send and compare with, at any offset.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    bytes: Vec<u8>,
}

// === impl Pattern ===

impl Pattern {
    /// Can give up to `longest` bytes at once.
    pub(super) fn new(longest: usize) -> Self {
        Self { bytes: (0..longest + PERIOD).map(|i| (i % PERIOD) as u8).collect() }
    }

    /// The `length` bytes at `offset`.
    pub(super) fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// The position of the first byte that is not what should stand at `offset`.
    pub(super) fn differs(&self, offset: u64, found: &[u8]) -> Option<u64> {
        let expected = self.at(offset, found.len());
        if expected == found {
            return None;
        }
        let at = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or_default();
        Some(offset + at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_piece_is_noticed() {
        let pattern = Pattern::new(1000);
        assert_eq!(pattern.differs(10, pattern.at(10, 900)), None);
        assert_eq!(pattern.differs(10, pattern.at(11, 900)), Some(10));
        let mut spoilt = pattern.at(500, 100).to_vec();
        spoilt[7] ^= 1;
        assert_eq!(pattern.differs(500, &spoilt), Some(507));
    }
}
