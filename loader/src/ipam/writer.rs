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
    known: tokio::sync::Mutex<Option<IpamBlock>>,
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

    /// How many addresses were free when the block was last seen; `None` if it was not, or is being written.
    pub fn free_when_last_seen(&self, block: IpNet, reserved: &Reserved) -> Option<usize> {
        let writer = self.writer(block);
        let known = writer.known.try_lock().ok()?;
        known.as_ref().map(|block| block.spec.free(reserved))
    }

    fn writer(&self, block: IpNet) -> Arc<Writer> {
        Arc::clone(lock(&self.writers).entry(block).or_default())
    }
}

// === impl Writer ===

impl Writer {
    async fn write_waiting<S: Store>(&self, store: &S, block: IpNet) {
        let mut known = self.known.lock().await;
        let (changes, answers): (Vec<Change>, Vec<_>) = std::mem::take(&mut *lock(&self.waiting)).into_iter().unzip();
        if changes.is_empty() {
            return;
        }
        match write(store, block, &mut known, &changes).await {
            // Who waits no longer needs no answer.
            Ok(outcomes) => {
                answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| drop(answer.send(Ok(outcome))));
            }
            Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
    }
}

/// Makes all changes in one write, again and again until it is the first.
async fn write<S: Store>(
    store: &S,
    net: IpNet,
    known: &mut Option<IpamBlock>,
    changes: &[Change],
) -> Result<Vec<Outcome>, IpamError> {
    let mut retry = Retry::default();
    loop {
        let remembered = known.is_some();
        let block = match known.take() {
            Some(block) => Ok(Some(block)),
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
            continue; // What would be refused is refused by the block as it is now, or not at all.
        }
        let written = if applied.iter().any(|one| one.write) { save(store, block).await } else { Ok(Some(block)) };
        match written {
            Ok(block) => {
                *known = block;
                return Ok(applied.into_iter().map(|one| one.outcome).collect());
            }
            Err(error) => retry.after(error).await?,
        }
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
