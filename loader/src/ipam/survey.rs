//! A look at all blocks of the cluster: what a node needs that has no address left in its own.
//!
//! In: all IPAMBlocks. Out: the next block to claim, those to take over, those to borrow from. Never: a promise; by the time
//! somebody acts on it, it may be wrong, and the write that follows finds out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use super::cidr;
use super::pool::Pool;
use super::reserved::Reserved;
use crate::crd::IpamBlock;
use crate::model::PrefixMap;

/// How long ago another node must have claimed a block that it does not use before it may be taken from it
/// (libcalico-go, `EmptyBlockMinReclaimAge`), so that two nodes do not take it from each other in turn.
const RECLAIM_AGE: Duration = Duration::from_mins(1);

/// All blocks.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    blocks: PrefixMap<Seen>,
}

/// A block, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The node that owns it.
    pub node: Option<String>,
    /// How many addresses can be given out; none if the block contradicts itself.
    pub free: usize,
    /// Whether nobody has an address of it.
    pub unused: bool,
    /// Its sequence number.
    pub sequence: u64,
    /// When its owner claimed it.
    pub claimed: Option<Timestamp>,
}

// === impl Survey ===

impl Survey {
    /// Of these blocks. One whose range cannot be read is left out.
    pub fn of(blocks: &[IpamBlock], reserved: &Reserved) -> Self {
        let seen = blocks.iter().filter(|block| !block.spec.deleted).filter_map(|block| {
            let spec = &block.spec;
            let seen = Seen {
                node: spec.node().map(str::to_owned),
                free: spec.free(reserved),
                unused: spec.is_unused(),
                sequence: spec.sequence_number,
                claimed: spec.affinity_claim_time.as_ref().map(|time| time.0),
            };
            Some((spec.cidr.parse::<IpNet>().ok()?, seen))
        });
        Self { blocks: seen.collect() }
    }

    /// The block that holds an address.
    pub fn block_with(&self, address: IpAddr) -> Option<IpNet> {
        self.blocks.longest_match(address).map(|(block, _)| block)
    }

    /// A block's sequence number, if it exists.
    pub fn sequence_of(&self, block: IpNet) -> Option<u64> {
        self.blocks.get(block).map(|seen| seen.sequence)
    }

    /// The first block of these pools that shares no address with an existing one, searched for from place `first` on,
    /// so that nodes that search at the same time seldom meet.
    pub fn unclaimed(
        &self,
        pools: &[&Pool],
        reserved: &Reserved,
        first: u128,
        except: &BTreeSet<IpNet>,
    ) -> Option<IpNet> {
        let is_free = |block: &IpNet| {
            !except.contains(block) && !reserved.covers(*block) && self.blocks.overlapping(*block).next().is_none()
        };
        pools.iter().flat_map(|pool| cidr::blocks_from(pool.cidr, pool.block_len, first)).find(is_free)
    }

    /// Whether less than half of these pools is in blocks.
    pub fn is_mostly_unclaimed(&self, pools: &[&Pool]) -> bool {
        let size = |net: IpNet| 2_f64.powi(i32::from(net.max_prefix_len() - net.prefix_len()));
        let all: f64 = pools.iter().map(|pool| size(pool.cidr)).sum();
        let claimed: f64 = self.blocks.iter().map(|(block, _)| block).filter(|b| in_pools(pools, *b)).map(size).sum();
        claimed < all / 2.0
    }

    /// The blocks of these pools that a node owns.
    pub fn owned_by(&self, node: &str, pools: &[&Pool]) -> impl Iterator<Item = IpNet> {
        let owned = self.blocks.iter().filter(move |(_, seen)| seen.node.as_deref() == Some(node));
        owned.map(|(block, _)| block).filter(|block| in_pools(pools, *block))
    }

    /// The blocks of these pools that other nodes own and have not used for a while.
    pub fn idle(&self, node: &str, pools: &[&Pool], now: Timestamp) -> impl Iterator<Item = (IpNet, &str, u64)> {
        let old = move |claimed: Timestamp| now.duration_since(claimed).unsigned_abs() >= RECLAIM_AGE;
        self.blocks.iter().filter_map(move |(block, seen)| {
            let owner = seen.node.as_deref().filter(|owner| *owner != node)?;
            let idle = seen.unused && seen.free > 0 && seen.claimed.is_none_or(old);
            (idle && in_pools(pools, block)).then_some((block, owner, seen.sequence))
        })
    }

    /// The blocks of these pools with free addresses: those first that nobody owns, then by `rank`.
    pub fn lenders(&self, pools: &[&Pool], rank: impl Fn(IpNet) -> u64) -> Vec<IpNet> {
        let lends = self.blocks.iter().filter(|(block, seen)| seen.free > 0 && in_pools(pools, *block));
        let mut ranked: Vec<_> = lends.map(|(block, seen)| (seen.node.is_some(), rank(block), block)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, block)| block).collect()
    }
}

/// Whether a block is part of one of these pools.
pub fn in_pools(pools: &[&Pool], block: IpNet) -> bool {
    pools.iter().any(|pool| pool.cidr.contains(&block))
}
