//! What looks as if nobody needed it any more, and since when.
//!
//! In: what looks so in one pass. Out: what has looked so in every pass for a while. Never: something that is seen for the first time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// All suspects. One is the same as before only if all of it is the same.
#[derive(Clone, Debug)]
pub struct Suspects<T> {
    since: BTreeMap<T, Instant>,
}

// === impl Suspects ===

impl<T: Ord + Clone> Suspects<T> {
    /// Takes note of one pass, and says who has been a suspect in all passes of at least the last `grace`.
    pub fn observe(&mut self, seen: BTreeSet<T>, now: Instant, grace: Duration) -> Vec<T> {
        self.since.retain(|suspect, _| seen.contains(suspect));
        let mut convicted = Vec::new();
        for suspect in seen {
            match self.since.get(&suspect) {
                Some(since) if now.duration_since(*since) >= grace => convicted.push(suspect),
                Some(_) => {}
                None => drop(self.since.insert(suspect, now)),
            }
        }
        convicted
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.since.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.since.is_empty()
    }
}

impl<T> Default for Suspects<T> {
    fn default() -> Self {
        Self { since: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_convicted_on_a_first_look_or_after_an_interruption() {
        let grace = Duration::from_secs(60);
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let (a, b) = (("a", 1), ("b", 1));
        let mut suspects = Suspects::default();
        let mut look =
            |secs, seen: &[(&'static str, u32)]| suspects.observe(seen.iter().copied().collect(), at(secs), grace);
        assert_eq!(look(0, &[a, b]), []);
        assert_eq!(look(59, &[a]), []);
        assert_eq!(look(60, &[a, b]), [a], "b was there in between");
        assert_eq!(look(119, &[a, b]), [a], "still there: it could not be taken back");
        assert_eq!(look(120, &[b]), [b]);
        assert_eq!(look(121, &[]), []);
        assert_eq!(look(1_000, &[a]), [], "forgotten in between");

        assert_eq!(look(2_000, &[("h", 1)]), []);
        assert_eq!(look(2_060, &[("h", 2)]), [], "it was written");
        assert_eq!(look(2_120, &[("h", 2)]), [("h", 2)]);
        // No grace at all still needs two looks.
        let mut suspects = Suspects::default();
        assert_eq!(suspects.observe([a].into(), at(0), Duration::ZERO), []);
        assert_eq!(suspects.observe([a].into(), at(0), Duration::ZERO), [a]);
    }
}
