//! What one process knows of addresses, and what it does about them without searching: its own blocks, its handles, new blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use sha1::{Digest as _, Sha1};
use tokio::time::Instant;
use tracing::{debug, info};

use super::block::{Change, Outcome};
use super::claim::{self, Claim, Only};
use super::error::IpamError;
use super::handle::Handle;
use super::pool::Pool;
use super::reserved::Reserved;
use super::retry::Retry;
use super::store::{Store, StoreError};
use super::survey::{Survey, in_pools};
use super::world::{World, Worlds};
use super::writer::{self, Writers};
use crate::crd::{BlockAffinity, IpamBlock, names};

/// How many blocks a node may lose to others in one search for a free one.
const MAX_LOST_CLAIMS: usize = 32;

/// For how long no block is looked for ahead after there was none to be had: a look is two lists.
const AHEAD_PAUSE: Duration = Duration::from_secs(10);

/// A point in the order in which things happen in this process. What was read at a later moment than a search began is
/// good enough to refuse; many who search at once share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// What one process knows.
pub(super) struct Inner<S> {
    pub(super) store: S,
    pub(super) node: String,
    pub(super) worlds: Worlds<S>,
    pub(super) writers: Writers<S>,
    /// This node's confirmed blocks, and when they were read.
    own: tokio::sync::Mutex<Option<(Moment, Vec<IpNet>)>>,
    /// Held while another block is looked for.
    claiming: tokio::sync::Mutex<()>,
    /// The last look at all blocks, and when it was taken.
    survey: tokio::sync::Mutex<Option<(Moment, Arc<Survey>)>>,
    moments: AtomicU64,
    /// The handles that this process has made and not yet taken back.
    handles: Mutex<HashMap<String, Handle<S>>>,
    /// Pools of which the node will soon need another block.
    short_of: Mutex<Vec<Pool>>,
    /// When there was none to be had for them.
    refused_ahead: Mutex<Option<Instant>>,
    /// Held by who gives to a handle or takes from it.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

// === impl Inner ===

impl<S: Store> Inner<S> {
    pub(super) fn new(store: S, node: String) -> Self {
        Self {
            worlds: Worlds::new(store.clone(), node.clone()),
            writers: Writers::new(store.clone()),
            own: tokio::sync::Mutex::default(),
            claiming: tokio::sync::Mutex::default(),
            survey: tokio::sync::Mutex::default(),
            moments: AtomicU64::new(0),
            handles: Mutex::default(),
            short_of: Mutex::default(),
            refused_ahead: Mutex::default(),
            busy: Mutex::default(),
            store,
            node,
        }
    }

    /// Now: later than all before.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::Relaxed))
    }

    /// This node's blocks of these pools that may have a free address, as far as is known; those last of which all free
    /// addresses are wanted by others already.
    pub(super) async fn promising(&self, pools: &[&Pool], reserved: &Reserved) -> Result<Vec<IpNet>, IpamError> {
        let mut own = self.own_blocks(None).await?;
        own.retain(|block| {
            in_pools(pools, *block)
                && !reserved.covers(*block)
                && self.writers.free_when_last_seen(*block, reserved) != Some(0)
        });
        own.sort_by_key(|block| self.writers.left_when_last_seen(*block, reserved) == Some(0));
        Ok(own)
    }

    /// Takes note of it if the node's blocks of these pools are nearly full; see [`Self::claim_ahead`].
    pub(super) async fn look_ahead(&self, pools: &[&Pool], reserved: &Reserved) {
        if self.is_short(pools, reserved).await {
            *lock(&self.short_of) = pools.iter().map(|pool| (*pool).clone()).collect();
        }
    }

    /// Whether less than a quarter of a block is left to the node. What is not known is taken for enough.
    async fn is_short(&self, pools: &[&Pool], reserved: &Reserved) -> bool {
        let Ok(own) = self.promising(pools, reserved).await else { return false };
        let left = own.iter().map(|block| self.writers.left_when_last_seen(*block, reserved));
        let Some(left) = left.sum::<Option<usize>>() else { return false };
        let smallest = pools.iter().map(|pool| pool.cidr.max_prefix_len() - pool.block_len).min().unwrap_or_default();
        let block = 1_usize.checked_shl(smallest.into()).unwrap_or(usize::MAX);
        left < block / 4
    }

    /// Claims a block before those of the node are full: a claim is five calls of the API one after another, and pods that
    /// come ten at a time would all wait for it. Only while most blocks of the pools are nobody's, so that no node has to
    /// borrow for it, and only one.
    pub(super) async fn claim_ahead(&self) {
        let pools = std::mem::take(&mut *lock(&self.short_of));
        let refused = lock(&self.refused_ahead).is_some_and(|at| at.elapsed() < AHEAD_PAUSE);
        if pools.is_empty() || refused {
            return;
        }
        let claimed = self.try_claim_ahead(&pools.iter().collect::<Vec<_>>()).await;
        if !matches!(claimed, Ok(true)) {
            *lock(&self.refused_ahead) = Some(Instant::now());
        }
        if let Err(error) = claimed {
            // Whoever needs the block will see.
            debug!("claiming a block before it is needed: {error}");
        }
    }

    /// Answers whether there is nothing to do any more; if not, there is nothing to be had.
    async fn try_claim_ahead(&self, pools: &[&Pool]) -> Result<bool, IpamError> {
        let Ok(_claiming) = self.claiming.try_lock() else { return Ok(true) };
        let (world, _) = self.worlds.get().await?;
        if !self.is_short(pools, &world.reserved).await {
            return Ok(true);
        }
        if !world.config.auto_allocate_blocks {
            return Ok(false);
        }
        let since = self.moment();
        let own = self.own_blocks(Some(since)).await?;
        if has_as_many_as_it_may(&own, pools, &world) {
            return Ok(false);
        }
        let survey = self.survey(&world.reserved, since).await?;
        if !survey.is_mostly_unclaimed(pools) {
            return Ok(false);
        }
        match self.unclaimed(&survey, pools, &world.reserved, &BTreeSet::new()) {
            Some(block) => Ok(self.claim(block).await? == Claim::Ours),
            None => Ok(false),
        }
    }

    /// Sees to it that one of this node's blocks has a free address: one where somebody else freed one, or a new one.
    /// Answers whether there is any. No is an answer as of `since` or later.
    pub(super) async fn another_block(&self, pools: &[&Pool], world: &World, since: Moment) -> Result<bool, IpamError> {
        // One at a time: who comes second finds the block that the first has claimed.
        let _claiming = self.claiming.lock().await;
        if !self.promising(pools, &world.reserved).await?.is_empty() {
            return Ok(true);
        }
        let own = self.look_at_own(&world.reserved, since).await?;
        if !self.promising(pools, &world.reserved).await?.is_empty() {
            return Ok(true);
        }
        if !world.config.auto_allocate_blocks {
            return Ok(false);
        }
        if has_as_many_as_it_may(&own, pools, world) {
            return Err(IpamError::BlockLimit { limit: world.block_limit() });
        }
        self.claim_one(pools, &world.reserved, since).await
    }

    /// Reads which blocks are this node's, and forgets what is known of those that somebody else has written since.
    async fn look_at_own(&self, reserved: &Reserved, since: Moment) -> Result<Vec<IpNet>, IpamError> {
        let own = self.own_blocks(Some(since)).await?;
        let survey = self.survey(reserved, since).await?;
        for block in &own {
            self.writers.forget_older(*block, survey.sequence_of(*block));
        }
        Ok(own)
    }

    /// Claims a block that does not exist, or takes one that another node has not used for a while. The node's own that
    /// lacks nothing but a confirmed affinity goes first.
    async fn claim_one(&self, pools: &[&Pool], reserved: &Reserved, since: Moment) -> Result<bool, IpamError> {
        let survey = self.survey(reserved, since).await?;
        // What is left of a claim that ended too early. Another agent of this node may just have confirmed one, so the
        // affinities must be newer than the look at the blocks.
        let own = self.own_blocks(None).await?;
        if survey.owned_by(&self.node, pools).any(|block| !own.contains(&block)) {
            let own = self.own_blocks(Some(self.moment())).await?;
            for block in survey.owned_by(&self.node, pools).filter(|block| !own.contains(block)) {
                if self.claim(block).await? == Claim::Ours {
                    return Ok(true);
                }
            }
            if !self.promising(pools, reserved).await?.is_empty() {
                return Ok(true);
            }
        }
        let mut lost = BTreeSet::new();
        while lost.len() < MAX_LOST_CLAIMS {
            let Some(block) = self.unclaimed(&survey, pools, reserved, &lost) else { break };
            if self.claim(block).await? == Claim::Ours {
                return Ok(true);
            }
            lost.insert(block);
        }
        for (block, owner, sequence) in survey.idle(&self.node, pools, Timestamp::now()) {
            if self.take_over(block, owner, sequence).await? {
                info!(%block, from = owner, "took a block that was not used");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A block that does not exist: each node begins to look for one elsewhere.
    fn unclaimed(
        &self,
        survey: &Survey,
        pools: &[&Pool],
        reserved: &Reserved,
        lost: &BTreeSet<IpNet>,
    ) -> Option<IpNet> {
        survey.unclaimed(pools, reserved, u128::from(self.rank("")), lost)
    }

    async fn take_over(&self, block: IpNet, owner: &str, sequence: u64) -> Result<bool, IpamError> {
        let name = names::affinity(owner, block);
        let Some(affinity) = self.retried(|| self.store.get::<BlockAffinity>(&name)).await? else { return Ok(false) };
        match claim::give_up(&self.store, &affinity, Only::Unused(Some(sequence))).await {
            Ok(true) => Ok(self.claim(block).await? == Claim::Ours),
            // It is used now, or somebody else was first.
            Ok(false) | Err(StoreError::Conflict(_) | StoreError::Exists(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a block this node's, if it can be.
    pub(super) async fn claim(&self, block: IpNet) -> Result<Claim, IpamError> {
        let claim = claim::claim(&self.store, &self.node, block).await?;
        *self.survey.lock().await = None;
        match claim {
            Claim::Ours => {
                info!(%block, "claimed a block");
                if let Some((_, own)) = self.own.lock().await.as_mut().filter(|(_, own)| !own.contains(&block)) {
                    own.push(block);
                }
            }
            Claim::Lost => {
                if let Some((_, own)) = self.own.lock().await.as_mut() {
                    own.retain(|own| *own != block);
                }
            }
        }
        Ok(claim)
    }

    /// A look at all blocks, as of `since` or later.
    pub(super) async fn survey(&self, reserved: &Reserved, since: Moment) -> Result<Arc<Survey>, IpamError> {
        let mut last = self.survey.lock().await;
        if let Some((_, survey)) = last.as_ref().filter(|(taken, _)| *taken >= since) {
            return Ok(Arc::clone(survey));
        }
        let taken = self.moment();
        let blocks = self.retried(|| self.store.list::<IpamBlock>()).await?;
        let survey = Arc::new(Survey::of(&blocks, reserved));
        *last = Some((taken, Arc::clone(&survey)));
        Ok(survey)
    }

    /// This node's confirmed blocks, as of `since` or later.
    async fn own_blocks(&self, since: Option<Moment>) -> Result<Vec<IpNet>, IpamError> {
        let mut own = self.own.lock().await;
        if let Some((_, own)) = own.as_ref().filter(|(read, _)| since.is_none_or(|since| *read >= since)) {
            return Ok(own.clone());
        }
        let read = self.moment();
        let affinities = self.retried(|| self.store.list::<BlockAffinity>()).await?;
        let ours = affinities.iter().filter(|a| a.spec.node == self.node && a.spec.is_confirmed());
        let blocks: Vec<IpNet> = ours.filter_map(|affinity| affinity.spec.block()).collect();
        *own = Some((read, blocks.clone()));
        Ok(blocks)
    }

    /// Takes back all addresses of a handle, then the handle.
    pub(super) async fn release(&self, id: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut handle = lock(&self.handles).remove(id).unwrap_or_else(|| Handle::new(self.store.clone(), id));
        if !handle.exists() {
            handle.refresh().await?;
        }
        let mut released = Vec::new();
        let mut retry = Retry::default();
        while handle.exists() {
            for block in handle.blocks() {
                let change = Change::TakeBack { handle: handle.id().to_owned() };
                match self.writers.change(block, change).await? {
                    Outcome::TakenBack(addresses) => released.extend(addresses),
                    Outcome::Broken(what) => return Err(IpamError::Broken { block, what }),
                    _ => {}
                }
            }
            if !handle.delete().await? {
                retry.after(StoreError::Conflict(format!("IPAMHandle {id}"))).await?;
            }
        }
        Ok(released)
    }

    /// The addresses of a handle in a block.
    pub(super) async fn of_handle(&self, block: IpNet, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let block = self.retried(|| writer::read(&self.store, block)).await?;
        Ok(block.map(|block| block.spec.of_handle(handle)).unwrap_or_default())
    }

    /// The labels of a pod's namespace, if any pool asks for them.
    pub(super) async fn namespace_labels(
        &self,
        world: &World,
        name: &str,
    ) -> Result<BTreeMap<String, String>, IpamError> {
        if name.is_empty() || world.pools.iter().all(Pool::takes_any_namespace) {
            return Ok(BTreeMap::new());
        }
        let namespace = self.retried(|| self.store.get::<Namespace>(name)).await?;
        Ok(namespace.and_then(|namespace| namespace.metadata.labels).unwrap_or_default())
    }

    /// Reads something, a few times if the API server does not answer.
    pub(super) async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<T, IpamError> {
        let mut retry = Retry::default();
        loop {
            match read().await {
                Ok(value) => return Ok(value),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// A handle as this process knows it; perhaps one that it knows nothing of.
    pub(super) fn known_handle(&self, id: &str) -> Handle<S> {
        lock(&self.handles).get(id).cloned().unwrap_or_else(|| Handle::new(self.store.clone(), id))
    }

    pub(super) fn remember(&self, handle: Handle<S>) {
        lock(&self.handles).insert(handle.id().to_owned(), handle);
    }

    /// The lock of who gives to a handle or takes from it.
    pub(super) fn busy(&self, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = lock(&self.busy);
        if let Some(busy) = all.get(handle).and_then(Weak::upgrade) {
            return busy;
        }
        all.retain(|_, busy| busy.strong_count() > 0);
        let busy = Arc::default();
        all.insert(handle.to_owned(), Arc::downgrade(&busy));
        busy
    }

    /// A number that depends on this node's name and on `name`, so that different nodes prefer different things.
    pub(super) fn rank(&self, name: &str) -> u64 {
        let digest = Sha1::digest(format!("{}/{name}", self.node));
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Whether a node that owns these blocks may claim no more of the pools.
fn has_as_many_as_it_may(own: &[IpNet], pools: &[&Pool], world: &World) -> bool {
    own.iter().filter(|block| in_pools(pools, **block)).count() >= world.block_limit()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
