//! Decisions from bytes. In: bytes, from proptest or a fuzzer. Out: choices among few. Never: an end: when the bytes are used up,
//! every further one is 0, which is always the simplest choice, so that what shrinks the bytes shrinks the case.

/// Something to draw decisions from.
#[derive(Debug)]
pub struct Dice<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

// === impl Dice ===

impl<'a> Dice<'a> {
    /// Draws from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter() }
    }

    /// A number from 0 to 255.
    pub fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    /// A number below `count`, which is 1 to 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) * count / 256
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// One of these, by weight. The first is the simplest.
    pub fn weighted<T: Clone>(&mut self, from: &[(usize, T)]) -> T {
        let mut number = self.below(from.iter().map(|(weight, _)| weight).sum());
        for (weight, value) in from {
            if number < *weight {
                return value.clone();
            }
            number -= weight;
        }
        from[0].1.clone()
    }

    /// Something in so many of a hundred cases, otherwise nothing.
    pub fn maybe<T>(&mut self, percent: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(100) >= 100 - percent).then(|| make(self))
    }

    /// From `least` to `most` of them.
    pub fn some<T>(&mut self, least: usize, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| make(self)).collect()
    }
}
