//! What looks abandoned, and since when.
//!
//! In: what looks so in one pass. Out: what has looked so in every pass for a while. Never: something that is seen for the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

/// Something that looks abandoned. It is the same suspect as before only if all of it is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// An address whose owner is gone.
    Address {
        /// Its block.
        block: IpNet,
        /// The address.
        address: IpAddr,
        /// Who had it.
        handle: Option<String>,
        /// The block's sequence number when it was given out.
        sequence: Option<u64>,
    },
    /// An affinity whose node is gone.
    Affinity {
        /// Its name.
        name: String,
    },
    /// A handle without addresses.
    Handle {
        /// Its name.
        name: String,
        /// Its version: one that is written again is no longer abandoned.
        version: Option<String>,
    },
}

/// All suspects.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    since: BTreeMap<Suspect, Instant>,
}

// === impl Suspects ===

impl Suspects {
    /// Takes note of one pass, and says who has been a suspect in all passes of at least the last `grace`.
    pub fn observe(&mut self, seen: BTreeSet<Suspect>, now: Instant, grace: Duration) -> Vec<Suspect> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_convicted_on_a_first_look_or_after_an_interruption() {
        let grace = Duration::from_secs(60);
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let affinity = |name: &str| Suspect::Affinity { name: name.to_owned() };
        let handle = |version: &str| Suspect::Handle { name: "h".to_owned(), version: Some(version.to_owned()) };
        let (a, b) = (affinity("a"), affinity("b"));
        let mut suspects = Suspects::default();
        let mut look =
            |secs, seen: &[&Suspect]| suspects.observe(seen.iter().map(|s| (*s).clone()).collect(), at(secs), grace);
        assert_eq!(look(0, &[&a, &b]), []);
        assert_eq!(look(59, &[&a]), []);
        assert_eq!(look(60, &[&a, &b]), vec![a.clone()], "b was there in between");
        assert_eq!(look(119, &[&a, &b]), vec![a.clone()], "still there: it could not be taken back");
        assert_eq!(look(120, &[&b]), vec![b.clone()]);
        assert_eq!(look(121, &[]), []);
        assert_eq!(look(1_000, &[&a]), [], "forgotten in between");

        assert_eq!(look(2_000, &[&handle("1")]), []);
        assert_eq!(look(2_060, &[&handle("2")]), [], "it was written");
        assert_eq!(look(2_120, &[&handle("2")]), [handle("2")]);
        // No grace at all still needs two looks.
        let mut suspects = Suspects::default();
        assert_eq!(suspects.observe([a.clone()].into(), at(0), Duration::ZERO), []);
        assert_eq!(suspects.observe([a.clone()].into(), at(0), Duration::ZERO), [a]);
    }
}
