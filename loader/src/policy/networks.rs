//! Which CIDR peers hold which addresses.
//!
//! In: the members of a universe. Out: every prefix that they name, also as an exception, with the members that hold all of it; and
//! the longest of them for an address. Never: a prefix of one family that says something about the other: `::/0` would
//! hold IPv4 as the maps have it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use margay_maps::addr::V4_PREFIX_BITS;

use super::hash::Map;
use super::universe::Universe;
use crate::model::policy::Peer;

/// Prefixes and their members.
#[derive(Debug)]
pub(super) struct Networks {
    prefixes: BTreeMap<IpNet, u32>,
    /// For each length, longest first, the prefixes of it, of both families.
    by_length: Vec<(u8, Map<IpNet, u32>)>,
    /// Members by the number of their set.
    sets: Vec<Vec<u32>>,
}

/// The set of what lies in no prefix.
const NOTHING: u32 = 0;

// === impl Networks ===

impl Networks {
    pub fn new(universe: &Universe) -> Self {
        let mut nets: Map<IpNet, Vec<(u32, &BTreeSet<IpNet>)>> = Map::default();
        let mut prefixes = BTreeSet::new();
        for (number, member) in (0..).zip(&universe.members) {
            let Some(Peer::Cidr { net, except }) = member.who.peer.as_deref() else { continue };
            nets.entry(*net).or_default().push((number, except));
            prefixes.insert(*net);
            prefixes.extend(except);
        }
        let wide_v6 = |net: &IpNet| {
            matches!(net, IpNet::V6(v6) if u32::from(v6.prefix_len()) < V4_PREFIX_BITS
                && v6.contains(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()))
        };
        if prefixes.iter().any(wide_v6) {
            prefixes.insert(IpNet::V4(Ipv4Net::default()));
        }
        let lengths: BTreeSet<u8> = nets.keys().map(IpNet::prefix_len).collect();
        let mut networks = Self { prefixes: BTreeMap::new(), by_length: Vec::new(), sets: vec![Vec::new()] };
        let mut known = Map::from_iter([(Vec::new(), NOTHING)]);
        let mut by_length: BTreeMap<u8, Map<IpNet, u32>> = BTreeMap::new();
        for prefix in prefixes {
            let wider = lengths.range(..=prefix.prefix_len()).filter_map(|length| cut(prefix.addr(), *length));
            let holding = wider.filter_map(|net| nets.get(&net)).flatten();
            let members: Vec<u32> = holding
                .filter(|(_, except)| !except.iter().any(|inner| inner.contains(&prefix)))
                .map(|(number, _)| *number)
                .collect();
            let next = networks.sets.len() as u32;
            let set = *known.entry(members.clone()).or_insert(next);
            if set == next {
                networks.sets.push(members);
            }
            networks.prefixes.insert(prefix, set);
            by_length.entry(prefix.prefix_len()).or_default().insert(prefix, set);
        }
        networks.by_length = by_length.into_iter().rev().collect();
        networks
    }

    /// All prefixes with the numbers of their sets.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, u32)> {
        self.prefixes.iter().map(|(net, set)| (*net, *set))
    }

    /// The number of the set of an address.
    pub fn set_of(&self, ip: IpAddr) -> u32 {
        let longest = self.by_length.iter().find_map(|(length, prefixes)| prefixes.get(&cut(ip, *length)?));
        longest.copied().unwrap_or(NOTHING)
    }

    /// The members that hold what has this set.
    pub fn members_of(&self, set: u32) -> &[u32] {
        &self.sets[set as usize]
    }
}

/// The prefix of this length that holds an address; none of the other family's lengths.
fn cut(ip: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(ip, length).ok().map(|net| net.trunc())
}
