//! What leaves the cluster with the node's address: packets of pods in pools with `natOutgoing` to what is in no pool.
//!
//! In: the model's pools. Out: two sets of ranges, each without overlaps. Never: a range of IPv6 as yet.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::Nat;
use crate::model::{Model, Pool};

/// `None` where no pool asks for it.
pub(super) fn nat(model: &Model) -> Option<Nat> {
    let mut pools: Vec<(Ipv4Net, bool)> = model.pools.values().filter_map(v4).collect();
    // An address belongs to the smallest pool around it, so the larger come first and give way to those in them. Of two
    // that are the same the one with natOutgoing comes last.
    pools.sort_by_key(|(range, nat_outgoing)| (range.prefix_len(), *nat_outgoing));
    let mut sources = Vec::new();
    for (range, nat_outgoing) in &pools {
        sources = sources.into_iter().flat_map(|source| without(source, *range)).collect();
        sources.extend(nat_outgoing.then_some(*range));
    }
    let pools = pools.into_iter().map(|(range, _)| range).collect();
    (!sources.is_empty()).then(|| Nat { sources: merged(sources), pools: merged(pools) })
}

fn v4(pool: &Pool) -> Option<(Ipv4Net, bool)> {
    match pool.range {
        IpNet::V4(range) => Some((range, pool.nat_outgoing)),
        IpNet::V6(_) => None,
    }
}

/// The parts of `range` that are not in `hole`.
fn without(range: Ipv4Net, hole: Ipv4Net) -> Vec<Ipv4Net> {
    if hole.contains(&range) {
        return Vec::new();
    }
    if !range.contains(&hole) {
        return vec![range];
    }
    // The half with the hole in it is halved in turn; `hole` is longer than `range`, so there are halves.
    let halves = range.subnets(range.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

/// As few ranges as possible.
fn merged(ranges: Vec<Ipv4Net>) -> BTreeSet<IpNet> {
    Ipv4Net::aggregate(&ranges).into_iter().map(IpNet::V4).collect()
}
