//! Chance that can be repeated. In: a seed. Out: numbers. Never: others for the same seed.

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

/// A source of numbers.
#[derive(Debug)]
pub struct Dice {
    rng: TestRng,
}

// === impl Dice ===

impl Dice {
    /// The numbers of one round of one seed.
    pub fn of(seed: u64, round: u64) -> Self {
        let seed = [seed.to_le_bytes(), round.to_le_bytes(), [1; 8], [2; 8]].concat();
        Self { rng: TestRng::from_seed(RngAlgorithm::ChaCha, &seed) }
    }

    /// Any.
    pub fn number(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// Any.
    pub fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.number() as usize % end
    }

    /// Once in `every` times.
    pub fn once_in(&mut self, every: usize) -> bool {
        self.below(every) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
