//! Two sorted maps side by side.
//!
//! In: a map as it was and as it is. Out: each key of either with both values, in order, in one walk through both: of two that hardly
//! differ and have a hundred thousand entries each, nothing is looked up. Never: a copy of either.

use std::collections::BTreeMap;
use std::iter;

/// What a key had, and what it has.
pub type Both<'a, V> = [Option<&'a V>; 2];

/// Every key of either map.
pub fn side_by_side<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Both<'a, V>)> {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    iter::from_fn(move || {
        let (is_old, is_new) = match (before.peek(), now.peek()) {
            (Some((old, _)), Some((new, _))) => (old <= new, new <= old),
            (old, new) => (old.is_some(), new.is_some()),
        };
        let old = before.next_if(|_| is_old);
        let new = now.next_if(|_| is_new);
        let (key, _) = old.or(new)?;
        Some((key, [old.map(|(_, value)| value), new.map(|(_, value)| value)]))
    })
}

/// The keys that have another value than they had, that have come or that have gone.
pub fn differences<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Both<'a, V>)> {
    side_by_side(before, now).filter(|(_, [old, new])| old != new)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_comes_once_with_what_it_had_and_has(before: BTreeMap<u8, u8>, now: BTreeMap<u8, u8>) {
            let walked: Vec<_> = side_by_side(&before, &now).collect();
            let keys: BTreeSet<&u8> = before.keys().chain(now.keys()).collect();
            let expected: Vec<_> = keys.into_iter().map(|key| (key, [before.get(key), now.get(key)])).collect();
            prop_assert_eq!(&walked, &expected);
            let differing = expected.into_iter().filter(|(_, [old, new])| old != new).collect::<Vec<_>>();
            prop_assert_eq!(differences(&before, &now).collect::<Vec<_>>(), differing);
        }
    }
}
