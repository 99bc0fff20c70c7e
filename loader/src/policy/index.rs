//! Many selectors against many sets of labels, without asking each of each.
//!
//! In: selectors, then labels. Out: which selectors match, as numbers. Never: an answer other than [`Selector::matches`] gives.
//!
//! Labels that no selector asks for do not count, and of those that count, a value that no selector names is as good as any
//! other such value. What is left of a pod's labels is the same for very many pods, and is judged once.

use super::hash::Map;
use crate::model::labels::{Labels, Selector, Test};

/// Selectors, and the sets of labels that were judged by them.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex<'a> {
    selectors: Vec<&'a Selector>,
    numbers: Map<&'a Selector, u32>,
    /// Of each key that counts, its number and its values that count, by number.
    keys: Map<&'a str, (u32, Map<&'a str, u32>)>,
    /// The selectors that ask for one of several values of a label, by each of these.
    by_value: Map<(u32, u32), Vec<u32>>,
    /// The others, which have to be asked.
    others: Vec<u32>,
    known: Map<Vec<(u32, u32)>, u32>,
    matches: Vec<Vec<u32>>,
    /// The set of those that match whatever the labels are.
    unknown: Option<u32>,
}

/// The number of a value that no selector names.
const SOME_VALUE: u32 = u32::MAX;

// === impl SelectorIndex ===

impl<'a> SelectorIndex<'a> {
    /// The number of a selector. All must be there before the first question.
    pub fn add(&mut self, selector: &'a Selector) -> u32 {
        if let Some(number) = self.numbers.get(selector) {
            return *number;
        }
        let number = self.selectors.len() as u32;
        self.numbers.insert(selector, number);
        self.selectors.push(selector);
        for (key, test) in selector.tests() {
            let next = self.keys.len() as u32;
            let (_, values) = self.keys.entry(key).or_insert_with(|| (next, Map::default()));
            if let Test::In(set) | Test::NotIn(set) = test {
                for value in set {
                    let next = values.len() as u32;
                    values.entry(value).or_insert(next);
                }
            }
        }
        let narrow = selector.tests().filter_map(|(key, test)| match test {
            Test::In(set) => Some((key, set)),
            _ => None,
        });
        match narrow.min_by_key(|(_, set)| set.len()) {
            None => self.others.push(number),
            Some((key, set)) => {
                for value in set {
                    if let Some(at) =
                        self.keys.get(key).and_then(|(key, values)| Some((*key, *values.get(value.as_str())?)))
                    {
                        self.by_value.entry(at).or_default().push(number);
                    }
                }
            }
        }
        number
    }

    /// The number of the set of selectors that match these labels.
    pub fn set_of(&mut self, labels: &Labels) -> u32 {
        let known = |(key, value): (&String, &String)| {
            let (key, values) = self.keys.get(key.as_str())?;
            Some((*key, values.get(value.as_str()).copied().unwrap_or(SOME_VALUE)))
        };
        let what_counts: Vec<_> = labels.iter().filter_map(known).collect();
        if let Some(set) = self.known.get(&what_counts) {
            return *set;
        }
        let candidates = what_counts.iter().filter_map(|at| self.by_value.get(at)).flatten().chain(&self.others);
        let mut matches: Vec<u32> =
            candidates.copied().filter(|number| self.selectors[*number as usize].matches(labels)).collect();
        matches.sort_unstable();
        matches.dedup();
        let set = self.matches.len() as u32;
        self.matches.push(matches);
        self.known.insert(what_counts, set);
        set
    }

    /// The number of the set of selectors that match whatever the labels are.
    pub fn set_of_unknown(&mut self) -> u32 {
        if let Some(set) = self.unknown {
            return set;
        }
        let everything = self.others.iter().copied();
        let matches = everything.filter(|number| self.selectors[*number as usize].is_everything()).collect();
        let set = self.matches.len() as u32;
        self.matches.push(matches);
        self.unknown = Some(set);
        set
    }

    /// The numbers of the selectors in a set, in order.
    pub fn selectors_in(&self, set: u32) -> &[u32] {
        &self.matches[set as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::tests::{any_labels, any_selector};

    proptest! {
        #[test]
        fn the_answers_are_the_selectors_own(
            selectors in prop::collection::vec(any_selector(), 0..8),
            asked in prop::collection::vec(any_labels(), 0..8),
        ) {
            let mut index = SelectorIndex::default();
            let numbers: Vec<u32> = selectors.iter().map(|selector| index.add(selector)).collect();
            for labels in asked {
                let set = index.set_of(&labels);
                for (selector, number) in selectors.iter().zip(&numbers) {
                    let found = index.selectors_in(set).contains(number);
                    prop_assert_eq!(found, selector.matches(&labels), "{} {:?}", selector, labels);
                }
            }
            let set = index.set_of_unknown();
            for (selector, number) in selectors.iter().zip(&numbers) {
                prop_assert_eq!(index.selectors_in(set).contains(number), selector.is_everything());
            }
        }
    }
}
