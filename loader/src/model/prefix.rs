//! A map from prefixes to values that finds what covers an address, and what a prefix covers or is covered by.
//!
//! In and out: values only. It is an ordered map and no trie: a look-up tries each length of prefix, at most 33 for IPv4
//! and 129 for IPv6, each in logarithmic time, which is plenty for tens of thousands of blocks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Values by prefix. Keys have no bits set past their length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrefixMap<T> {
    entries: BTreeMap<IpNet, T>,
}

// === impl PrefixMap ===

impl<T> PrefixMap<T> {
    /// Puts a value at a prefix; gives back the one that was there.
    pub fn insert(&mut self, net: IpNet, value: T) -> Option<T> {
        self.entries.insert(net.trunc(), value)
    }

    /// The value at exactly this prefix.
    pub fn get(&self, net: IpNet) -> Option<&T> {
        self.entries.get(&net.trunc())
    }

    /// All, in order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.entries.iter().map(|(net, value)| (*net, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The longest prefix that holds `ip`.
    pub fn longest_match(&self, ip: IpAddr) -> Option<(IpNet, &T)> {
        self.covering(IpNet::from(ip)).next()
    }

    /// The prefixes that hold all of `net`, itself among them, longest first.
    pub fn covering(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        (0..=net.prefix_len()).rev().filter_map(move |len| {
            let wider = IpNet::new(net.addr(), len).ok()?.trunc();
            self.entries.get(&wider).map(|value| (wider, value))
        })
    }

    /// The prefixes inside `net`, itself among them, in order of their addresses.
    pub fn covered(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let (first, last) = (net.trunc(), IpNet::from(net.broadcast()));
        self.entries.range(first..=last).map(|(net, value)| (*net, value)).filter(move |(inner, _)| net.contains(inner))
    }

    /// The prefixes that share addresses with `net`: of two that do, one always holds all of the other.
    pub fn overlapping(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        self.covering(net).chain(self.covered(net).filter(move |(inner, _)| inner.prefix_len() > net.prefix_len()))
    }
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T> FromIterator<(IpNet, T)> for PrefixMap<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|(net, value)| (net.trunc(), value)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Prefixes out of a small space, so that many of them overlap.
    fn any_net() -> impl Strategy<Value = IpNet> {
        (any::<u8>(), 20..=32u8).prop_map(|(host, len)| IpNet::new([10, 0, host, host].into(), len).unwrap().trunc())
    }

    proptest! {
        #[test]
        fn overlaps_are_those_that_a_search_through_all_finds(nets in prop::collection::vec(any_net(), 0..40), net in any_net()) {
            let map: PrefixMap<()> = nets.iter().map(|net| (*net, ())).collect();
            let mut found: Vec<IpNet> = map.overlapping(net).map(|(net, ())| net).collect();
            found.sort();
            let mut naive: Vec<IpNet> = nets.into_iter().filter(|n| n.contains(&net) || net.contains(n)).collect();
            naive.sort();
            naive.dedup();
            prop_assert_eq!(found, naive);
        }

        #[test]
        fn the_longest_match_is_the_one_that_a_search_through_all_finds(
            nets in prop::collection::vec(any_net(), 0..40),
            ip in any_net(),
        ) {
            let map: PrefixMap<()> = nets.iter().map(|net| (*net, ())).collect();
            let naive = nets.iter().filter(|net| net.contains(&ip.addr())).max_by_key(|net| net.prefix_len());
            prop_assert_eq!(map.longest_match(ip.addr()).map(|(net, ())| net), naive.copied());
        }
    }

    #[test]
    fn families_do_not_mix() {
        let map: PrefixMap<u8> =
            [("0.0.0.0/0".parse().unwrap(), 4), ("::/0".parse().unwrap(), 6)].into_iter().collect();
        assert_eq!(map.longest_match("10.0.0.1".parse().unwrap()).unwrap().1, &4);
        assert_eq!(map.longest_match("fd00::1".parse().unwrap()).unwrap().1, &6);
        assert_eq!(map.overlapping("::/0".parse().unwrap()).count(), 1);
    }
}
