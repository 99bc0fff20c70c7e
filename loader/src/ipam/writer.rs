//! Writes blocks: all changes that wait for one block go into one write.
//!
//! In: a block and a [`Change`]. Out: its [`Outcome`], after the write that made it. Never: an outcome that rests on an
//! old copy of the block: what is remembered of a block only saves reading it before a write that compares versions.
//!
//! A pod's address costs one write of its block. Were ten pods to come at once and each to write by itself, nine would
//! lose against the tenth, then eight against the ninth. So the first of them writes for all that have come until it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::block::{Applied, Change, Outcome};
use super::error::IpamError;
use super::reserved::Reserved;
use super::retry::Retry;
use super::store::{Store, StoreError};
use crate::crd::{IpamBlock, names};

type Answer = Result<Outcome, IpamError>;

/// The blocks that this process has to do with.
pub struct Writers<S> {
    store: S,
    writers: Mutex<HashMap<IpNet, Arc<Writer>>>,
}

/// One block: who waits for it, and what it looked like after the last write.
#[derive(Default)]
struct Writer {
    waiting: Mutex<Vec<(Change, oneshot::Sender<Answer>)>>,
    /// Held while the block is read and written.
    writing: tokio::sync::Mutex<()>,
    known: Mutex<Option<Arc<IpamBlock>>>,
}

// === impl Writers ===

impl<S: Store> Writers<S> {
    /// Of this store.
    pub fn new(store: S) -> Self {
        Self { store, writers: Mutex::default() }
    }

    /// Makes a change. Once begun it goes on, even if nobody waits for the outcome any more.
    ///
    /// # Errors
    /// The block could not be read or written. It may have been written all the same if the API server did not answer.
    pub async fn change(&self, block: IpNet, change: Change) -> Answer {
        let writer = self.writer(block);
        let (answer, outcome) = oneshot::channel();
        lock(&writer.waiting).push((change, answer));
        let store = self.store.clone();
        tokio::spawn(async move { writer.write_waiting(&store, block).await });
        outcome.await.unwrap_or_else(|_stopped| Err(IpamError::Unreachable(format!("writing {block}: stopped"))))
    }

    /// How many addresses were free when the block was last seen, if it was.
    pub fn free_when_last_seen(&self, block: IpNet, reserved: &Reserved) -> Option<usize> {
        self.writer(block).known().map(|block| block.spec.free(reserved))
    }

    /// How many addresses are free, as far as is known; `None` if there is no such block.
    ///
    /// # Errors
    /// Nothing is known, and the block cannot be read.
    pub async fn free(&self, block: IpNet, reserved: &Reserved) -> Result<Option<usize>, IpamError> {
        let writer = self.writer(block);
        let mut retry = Retry::default();
        loop {
            let known = writer.known();
            if known.is_some() {
                return Ok(known.map(|block| block.spec.free(reserved)));
            }
            let _alone = writer.writing.lock().await;
            if writer.known().is_some() {
                continue;
            }
            match read(&self.store, block).await {
                Ok(None) => return Ok(None),
                Ok(Some(block)) => *lock(&writer.known) = Some(Arc::new(block)),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// Forgets what is known of a block that has been seen with this sequence number, or seen to be gone, if that is newer.
    pub fn forget_older(&self, block: IpNet, seen: Option<u64>) {
        let writer = self.writer(block);
        let mut known = lock(&writer.known);
        if known.as_ref().is_some_and(|block| seen.is_none_or(|seen| seen > block.spec.sequence_number)) {
            *known = None;
        }
    }

    fn writer(&self, block: IpNet) -> Arc<Writer> {
        Arc::clone(lock(&self.writers).entry(block).or_default())
    }
}

// === impl Writer ===

impl Writer {
    async fn write_waiting<S: Store>(&self, store: &S, block: IpNet) {
        let _alone = self.writing.lock().await;
        let (changes, answers): (Vec<Change>, Vec<_>) = std::mem::take(&mut *lock(&self.waiting)).into_iter().unzip();
        if changes.is_empty() {
            return;
        }
        match self.write(store, block, &changes).await {
            // Who waits no longer needs no answer.
            Ok(outcomes) => {
                answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| drop(answer.send(Ok(outcome))));
            }
            Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
    }

    /// Makes all changes in one write, again and again until it is the first.
    async fn write<S: Store>(&self, store: &S, net: IpNet, changes: &[Change]) -> Result<Vec<Outcome>, IpamError> {
        let mut retry = Retry::default();
        loop {
            let known = self.known();
            let remembered = known.is_some();
            let block = match known {
                Some(block) => Ok(Some(Arc::unwrap_or_clone(block))),
                None => read(store, net).await,
            };
            let mut block = match block {
                Ok(Some(block)) => block,
                Ok(None) => return Ok(vec![Outcome::NoBlock; changes.len()]),
                Err(error) => {
                    retry.after(error).await?;
                    continue;
                }
            };
            let applied: Vec<Applied> = changes.iter().map(|change| block.spec.apply(change)).collect();
            if remembered && applied.iter().any(|one| !one.write) {
                // What would be refused is refused by the block as it is now, or not at all.
                *lock(&self.known) = None;
                continue;
            }
            let written = if applied.iter().any(|one| one.write) { save(store, block).await } else { Ok(Some(block)) };
            *lock(&self.known) = written.as_ref().ok().cloned().flatten().map(Arc::new);
            match written {
                Ok(_) => return Ok(applied.into_iter().map(|one| one.outcome).collect()),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    fn known(&self) -> Option<Arc<IpamBlock>> {
        lock(&self.known).clone()
    }
}

/// Writes a block, or deletes it if it is nobody's and nobody has an address of it.
async fn save<S: Store>(store: &S, mut block: IpamBlock) -> Result<Option<IpamBlock>, StoreError> {
    if block.spec.affinity.is_none() && block.spec.is_unused() {
        store.delete(&block).await?;
        return Ok(None);
    }
    block.spec.sequence_number += 1;
    store.update(&block).await.map(Some)
}

/// Reads a block. One that is marked as deleted is deleted: whoever marked it did not get that far.
///
/// # Errors
/// As the store's.
pub async fn read<S: Store>(store: &S, block: IpNet) -> Result<Option<IpamBlock>, StoreError> {
    let Some(block) = store.get::<IpamBlock>(&names::block(block)).await? else { return Ok(None) };
    if !block.spec.deleted {
        return Ok(Some(block));
    }
    store.delete(&block).await?;
    Ok(None)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
