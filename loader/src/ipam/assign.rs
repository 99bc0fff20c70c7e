//! Where an address comes from: the node's own blocks, then a new block, then one that another node does not use, then
//! an address borrowed from another node's block.
//!
//! In: who asks, and the world. Out: one address, written down. Never: an address without a handle that leads to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tracing::{info, warn};

use super::Inner;
use super::block::{Change, Claimant, Outcome, Whose};
use super::cidr::{self, Family};
use super::claim::{self, Claim, Only};
use super::error::IpamError;
use super::handle::{Handle, Promise};
use super::pool::{Asking, Pool, choose};
use super::store::Store;
use super::world::World;
use crate::crd::{BlockAffinity, IpamBlock, names};
use crate::model::PrefixMap;

/// How long ago another node must have claimed a block that it does not use before it may be taken from it
/// (libcalico-go, `EmptyBlockMinReclaimAge`), so that two nodes do not take it from each other in turn.
const RECLAIM_AGE: Duration = Duration::from_mins(1);
/// How many blocks a node may lose to others in one search for a free one.
const MAX_LOST_CLAIMS: usize = 32;

/// One search for one address.
pub(super) struct Search<'a, S> {
    pub(super) ipam: &'a Inner<S>,
    pub(super) world: &'a World,
    pub(super) who: Arc<Claimant>,
    pub(super) handle: &'a mut Handle<S>,
    /// The block that the handle names for this search and did not before.
    promised: Option<IpNet>,
}

/// What came of looking into one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Took {
    /// An address.
    Address(IpAddr),
    /// It has none to give.
    Nothing,
    /// It does not exist, or belongs to another node.
    NoSuchBlock,
}

// === impl Search ===

impl<'a, S: Store> Search<'a, S> {
    pub(super) fn new(ipam: &'a Inner<S>, world: &'a World, who: Arc<Claimant>, handle: &'a mut Handle<S>) -> Self {
        Self { ipam, world, who, handle, promised: None }
    }

    /// Any address from the pools that fit.
    pub(super) async fn any(mut self, asking: &Asking<'_>) -> Result<IpAddr, IpamError> {
        if let Some(address) = self.had_before(asking.family).await? {
            return Ok(address);
        }
        let pools = choose(&self.world.pools, asking).map_err(|why| IpamError::NoPool { why })?;
        let found = self.search(&pools, asking.family).await;
        self.settle(found).await
    }

    /// This address.
    pub(super) async fn this(mut self, address: IpAddr) -> Result<IpAddr, IpamError> {
        let found = self.take_this(address).await;
        self.settle(found).await
    }

    /// Takes the promise back if nothing came of the search for sure.
    async fn settle(&mut self, found: Result<IpAddr, IpamError>) -> Result<IpAddr, IpamError> {
        let for_sure = found.as_ref().is_err_and(|error| !error.is_transient());
        if let Some(block) = self.promised.filter(|_| for_sure)
            && let Err(error) = self.handle.withdraw(block, 1).await
        {
            warn!("{error}");
        }
        found
    }

    /// The address that the handle has already, if an earlier attempt came so far. A promise that was not kept is
    /// taken back: first from the block, so that a write under way cannot keep it after all.
    async fn had_before(&mut self, family: Family) -> Result<Option<IpAddr>, IpamError> {
        let blocks = self.handle.blocks();
        for block in blocks.into_iter().filter(|block| Family::of(block.addr()) == family) {
            if let Some(address) = self.ipam.of_handle(block, self.handle.id()).await?.first() {
                return Ok(Some(*address));
            }
            self.ipam.writers.change(block, Change::TakeBack { handle: self.who.handle.clone() }).await?;
            self.handle.withdraw(block, usize::MAX).await?;
        }
        Ok(None)
    }

    async fn search(&mut self, pools: &[&Pool], family: Family) -> Result<IpAddr, IpamError> {
        let node = Whose::Node(self.ipam.node.clone());
        let mut tried = BTreeSet::new();
        loop {
            if let Some(address) = self.try_own(pools, &node, &mut tried).await? {
                return Ok(address);
            }
            if !self.another_block(pools, &tried).await? {
                break;
            }
        }
        let rules = &self.world.config;
        if !rules.strict_affinity
            && let Some(address) = self.borrow(pools).await?
        {
            return Ok(address);
        }
        let pools = pools.iter().map(|pool| pool.name.clone()).collect();
        let own_only = rules.strict_affinity || !rules.auto_allocate_blocks;
        Err(IpamError::Exhausted { family, pools, own_only })
    }

    /// Sees to it that the node owns a block of these pools that was not tried yet. Answers whether it does.
    async fn another_block(&self, pools: &[&Pool], tried: &BTreeSet<IpNet>) -> Result<bool, IpamError> {
        // One at a time: who comes second finds the block that the first has claimed.
        let _claiming = self.ipam.claiming.lock().await;
        if !self.own(pools, tried).await?.is_empty() {
            return Ok(true);
        }
        self.ipam.reload_own().await?;
        if !self.own(pools, tried).await?.is_empty() {
            return Ok(true);
        }
        if !self.world.config.auto_allocate_blocks {
            return Ok(false);
        }
        let limit = self.world.block_limit();
        if self.own(pools, &BTreeSet::new()).await?.len() >= limit {
            return Err(IpamError::BlockLimit { limit });
        }
        Ok(self.claim_one(pools).await?.is_some())
    }

    /// Tries the node's own blocks, those first that had free addresses when they were last seen.
    async fn try_own(
        &mut self,
        pools: &[&Pool],
        node: &Whose,
        tried: &mut BTreeSet<IpNet>,
    ) -> Result<Option<IpAddr>, IpamError> {
        let mut own = self.own(pools, tried).await?;
        let seen_full = |block: &IpNet| self.ipam.writers.free_when_last_seen(*block, &self.world.reserved) == Some(0);
        own.sort_by_key(|block| (seen_full(block), *block));
        for block in own {
            tried.insert(block);
            let mut took = self.take(block, node).await?;
            if took == Took::NoSuchBlock {
                // The affinity says that the block is the node's, and it is not: claiming it mends one or the other.
                match self.claim(block).await? {
                    Claim::Ours => took = self.take(block, node).await?,
                    Claim::Lost => self.ipam.forget_own(block).await,
                }
            }
            if let Took::Address(address) = took {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// The node's own blocks of these pools that were not tried yet.
    async fn own(&self, pools: &[&Pool], tried: &BTreeSet<IpNet>) -> Result<Vec<IpNet>, IpamError> {
        let mut own = self.ipam.own_blocks().await?;
        own.retain(|block| in_pools(pools, *block) && !self.world.reserved.covers(*block) && !tried.contains(block));
        Ok(own)
    }

    /// Takes an address from a block if it has one.
    async fn take(&mut self, block: IpNet, whose: &Whose) -> Result<Took, IpamError> {
        if self.promise(block).await? == Promise::Surprise {
            if let Some(address) = self.had_before(Family::of(block.addr())).await? {
                return Ok(Took::Address(address));
            }
            self.promise(block).await?;
        }
        let reserved = Arc::clone(&self.world.reserved);
        let change = Change::Any { to: Arc::clone(&self.who), whose: whose.clone(), reserved };
        match self.ipam.writers.change(block, change).await? {
            Outcome::Has(address) => Ok(Took::Address(address)),
            Outcome::NotOurs(_) | Outcome::NoBlock => Ok(Took::NoSuchBlock),
            Outcome::Broken(what) => {
                warn!("{}", IpamError::Broken { block, what });
                Ok(Took::Nothing)
            }
            Outcome::Full | Outcome::Taken(_) | Outcome::TakenBack(_) | Outcome::Changed => Ok(Took::Nothing),
        }
    }

    /// Makes the handle name the block, and no longer the one that it named for nothing.
    async fn promise(&mut self, block: IpNet) -> Result<Promise, IpamError> {
        let instead_of = self.promised.filter(|promised| *promised != block);
        let promise = self.handle.promise(block, instead_of).await?;
        if promise == Promise::Made {
            self.promised = Some(block);
        }
        Ok(promise)
    }

    /// Claims a block that nobody has, or one that another node has not used for a while.
    async fn claim_one(&self, pools: &[&Pool]) -> Result<Option<IpNet>, IpamError> {
        let mut lost = BTreeSet::new();
        while lost.len() < MAX_LOST_CLAIMS {
            let Some(block) = self.unclaimed(pools, &lost).await? else { break };
            if self.claim(block).await? == Claim::Ours {
                return Ok(Some(block));
            }
            lost.insert(block);
        }
        self.reclaim(pools).await
    }

    async fn claim(&self, block: IpNet) -> Result<Claim, IpamError> {
        let claim = claim::claim(&self.ipam.store, &self.ipam.node, block).await?;
        if claim == Claim::Ours {
            info!(%block, "claimed a block");
            self.ipam.add_own(block).await;
        }
        Ok(claim)
    }

    /// The first block that does not exist, from a place on that depends on the node's name, so that nodes that search
    /// at the same time seldom meet.
    async fn unclaimed(&self, pools: &[&Pool], lost: &BTreeSet<IpNet>) -> Result<Option<IpNet>, IpamError> {
        let names = self.ipam.retried(|| self.ipam.store.names::<IpamBlock>()).await?;
        let existing: PrefixMap<()> =
            names.iter().filter_map(|name| names::parse_block(name)).map(|block| (block, ())).collect();
        let first = self.ipam.first_place();
        let is_free = |block: &IpNet| {
            !lost.contains(block)
                && !self.world.reserved.covers(*block)
                && existing.overlapping(*block).next().is_none()
        };
        let mut blocks = pools.iter().flat_map(|pool| cidr::blocks_from(pool.cidr, pool.block_len, first));
        Ok(blocks.find(is_free))
    }

    /// Takes a block from a node that owns it and does not use it.
    async fn reclaim(&self, pools: &[&Pool]) -> Result<Option<IpNet>, IpamError> {
        let now = Timestamp::now();
        let old = |block: &IpamBlock| {
            let claimed = block.spec.affinity_claim_time.as_ref();
            claimed.is_none_or(|claimed| now.duration_since(claimed.0).unsigned_abs() >= RECLAIM_AGE)
        };
        for block in self.ipam.retried(|| self.ipam.store.list::<IpamBlock>()).await? {
            let (Ok(net), Some(owner)) = (block.spec.checked(), block.spec.node()) else { continue };
            let unused = block.spec.is_unused() && block.spec.free(&self.world.reserved) > 0;
            if owner == self.ipam.node || !in_pools(pools, net) || !unused || !old(&block) {
                continue;
            }
            let affinity = self.ipam.store.get::<BlockAffinity>(&names::affinity(owner, net)).await;
            let Ok(Some(affinity)) = affinity else { continue };
            let only = Only::Unused(Some(block.spec.sequence_number));
            // Whatever goes wrong, somebody else has come first or the API server is gone; the next one may do.
            if claim::give_up(&self.ipam.store, &affinity, only).await == Ok(true)
                && self.claim(net).await? == Claim::Ours
            {
                info!(block = %net, from = owner, "took an unused block");
                return Ok(Some(net));
            }
        }
        Ok(None)
    }

    /// Takes an address from a block of another node, or of none.
    async fn borrow(&mut self, pools: &[&Pool]) -> Result<Option<IpAddr>, IpamError> {
        let blocks = self.ipam.retried(|| self.ipam.store.list::<IpamBlock>()).await?;
        let mut lenders: Vec<(bool, u64, IpNet)> = blocks
            .iter()
            .filter(|block| block.spec.free(&self.world.reserved) > 0)
            .filter_map(|block| Some((block.spec.affinity.is_some(), block.spec.checked().ok()?, block)))
            .filter(|(_, net, _)| in_pools(pools, *net))
            .map(|(owned, net, block)| (owned, self.ipam.rank(&block.name_any()), net))
            .collect();
        lenders.sort();
        for (_, _, block) in lenders {
            if let Took::Address(address) = self.take(block, &Whose::Anyones).await? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    async fn take_this(&mut self, address: IpAddr) -> Result<IpAddr, IpamError> {
        let pool = self.world.pool_of(address).ok_or(IpamError::OutsidePools { address })?;
        let block = self.ipam.block_with(pool, address).await?;
        let whose =
            if self.world.config.strict_affinity { Whose::Node(self.ipam.node.clone()) } else { Whose::Anyones };
        // Twice at most: before and after the block is made.
        for _ in 0..2 {
            self.promise(block).await?;
            let change = Change::This { address, to: Arc::clone(&self.who), whose: whose.clone() };
            match self.ipam.writers.change(block, change).await? {
                Outcome::Has(address) => return Ok(address),
                Outcome::Taken(by) => return Err(IpamError::Taken { address, by }),
                Outcome::NotOurs(owner) => return Err(IpamError::NotOurs { address, owner }),
                Outcome::Broken(what) => return Err(IpamError::Broken { block, what }),
                _ => drop(self.claim(block).await?),
            }
        }
        Err(IpamError::Contended { what: format!("claiming {block}"), attempts: 2 })
    }
}

fn in_pools(pools: &[&Pool], block: IpNet) -> bool {
    pools.iter().any(|pool| pool.cidr.contains(&block))
}
