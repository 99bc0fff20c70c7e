//! Where an address comes from: the node's own blocks, then a new block, then one that another node does not use, then
//! an address borrowed from another node's block.
//!
//! In: who asks, and the world. Out: one address, written down. Never: an address without a handle that leads to it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::warn;

use super::block::{Change, Claimant, Outcome, Whose};
use super::cidr::Family;
use super::claim::Claim;
use super::error::IpamError;
use super::handle::{Handle, Promise};
use super::inner::{Inner, Moment};
use super::pool::{Asking, Pool, choose};
use super::store::Store;
use super::world::World;

/// How often others may fill a block between the look at it and the write.
const MAX_FILLED: u32 = 100;

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
        let since = self.ipam.moment();
        for _ in 0..MAX_FILLED {
            for block in self.ipam.promising(pools, &self.world.reserved).await? {
                if let Some(address) = self.take_from_own(block).await? {
                    self.ipam.look_ahead(pools, &self.world.reserved).await;
                    return Ok(address);
                }
            }
            if !self.ipam.another_block(pools, self.world, since).await? {
                return self.borrow(pools, family, since).await;
            }
        }
        let what = format!("filling the blocks of {}", self.ipam.node);
        Err(IpamError::Contended { what, attempts: MAX_FILLED })
    }

    async fn take_from_own(&mut self, block: IpNet) -> Result<Option<IpAddr>, IpamError> {
        let whose = Whose::Node(self.ipam.node.clone());
        match self.take(block, &whose).await? {
            Took::Address(address) => return Ok(Some(address)),
            Took::Nothing => return Ok(None),
            Took::NoSuchBlock => {}
        }
        // The affinity says that the block is the node's, and it is not: claiming it mends one or the other.
        if self.ipam.claim(block).await? == Claim::Ours
            && let Took::Address(address) = self.take(block, &whose).await?
        {
            return Ok(Some(address));
        }
        Ok(None)
    }

    /// Takes an address from a block of another node, or of none.
    async fn borrow(&mut self, pools: &[&Pool], family: Family, since: Moment) -> Result<IpAddr, IpamError> {
        let rules = &self.world.config;
        if !rules.strict_affinity {
            let survey = self.ipam.survey(&self.world.reserved, since).await?;
            for block in survey.lenders(pools, |block| self.ipam.rank(&block.to_string())) {
                self.ipam.writers.forget_older(block, survey.sequence_of(block));
                if let Took::Address(address) = self.take(block, &Whose::Anyones).await? {
                    return Ok(address);
                }
            }
        }
        let pools = pools.iter().map(|pool| pool.name.clone()).collect();
        let own_only = rules.strict_affinity || !rules.auto_allocate_blocks;
        Err(IpamError::Exhausted { family, pools, own_only })
    }

    /// Takes an address from a block if it has one. A block that has none costs no write.
    async fn take(&mut self, block: IpNet, whose: &Whose) -> Result<Took, IpamError> {
        match self.ipam.writers.free(block, &self.world.reserved).await? {
            None => return Ok(Took::NoSuchBlock),
            Some(0) => return Ok(Took::Nothing),
            Some(_) => {}
        }
        let booking = self.ipam.writers.book(block);
        if self.promise(block).await? == Promise::Surprise {
            if let Some(address) = self.had_before(Family::of(block.addr())).await? {
                return Ok(Took::Address(address));
            }
            self.promise(block).await?;
        }
        let reserved = Arc::clone(&self.world.reserved);
        let change = Change::Any { to: Arc::clone(&self.who), whose: whose.clone(), reserved };
        match self.ipam.writers.change_booked(block, change, booking).await? {
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

    async fn take_this(&mut self, address: IpAddr) -> Result<IpAddr, IpamError> {
        let pool = self.world.pool_of(address).ok_or(IpamError::OutsidePools { address })?;
        // An existing block, whatever its size, or the one that is to be made.
        let survey = self.ipam.survey(&self.world.reserved, self.ipam.moment()).await?;
        let existing = survey.block_with(address);
        let block = existing.or_else(|| pool.block_of(address)).ok_or(IpamError::OutsidePools { address })?;
        let whose =
            if self.world.config.strict_affinity { Whose::Node(self.ipam.node.clone()) } else { Whose::Anyones };
        // Twice at most: before and after the block is made.
        for _ in 0..2 {
            if self.promise(block).await? == Promise::Surprise {
                self.promise(block).await?;
            }
            let change = Change::This { address, to: Arc::clone(&self.who), whose: whose.clone() };
            match self.ipam.writers.change(block, change).await? {
                Outcome::Has(address) => return Ok(address),
                Outcome::Taken(by) => return Err(IpamError::Taken { address, by }),
                Outcome::NotOurs(owner) => return Err(IpamError::NotOurs { address, owner }),
                Outcome::Broken(what) => return Err(IpamError::Broken { block, what }),
                _ => drop(self.ipam.claim(block).await?),
            }
        }
        Err(IpamError::Contended { what: format!("claiming {block}"), attempts: 2 })
    }
}
