//! Writes blocks: all changes that wait for one block go into one write.
//!
//! In: a block and a [`Change`]. Out: its [`Outcome`], after the write that made it. Never: an outcome that rests on an
//! old copy of the block: what is remembered of a block only saves reading it before a write that compares versions.
//!
//! A pod's address costs one write of its block. Were ten pods to come at once and each to write by itself, nine would
//! lose against the tenth, then eight against the ninth. So the first of them writes for all that have come until it does,
//! and waits a moment for those that are about to come: they have a [`Booking`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::block::{Applied, Change, Outcome};
use super::error::IpamError;
use super::reserved::Reserved;
use super::retry::Retry;
use super::store::{Store, StoreError};
use crate::crd::{IpamBlock, names};

type Answer = Result<Outcome, IpamError>;

/// How long a write waits for those that are writing their handles and will want an address of the block. A write of a block
/// costs the API server as much as three handles do.
const GATHER: Duration = Duration::from_millis(5);

/// While pods come together, the least time from one write of a block to the next. Those that write their handles, start or get
/// their programs meanwhile use the processors as well as a write would, and the next write is for all of them.
const PACE: Duration = Duration::from_millis(20);

/// For how long pods count as coming together after two of them wanted an address at once.
const CROWD: Duration = Duration::from_millis(100);

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
    /// How many want an address of it and do not know yet whether they have one.
    booked: AtomicUsize,
    /// How many of them have not come to wait for it yet.
    coming: AtomicUsize,
    arrived: Notify,
    rhythm: Mutex<Rhythm>,
}

/// When a block is to be written, beyond that somebody waits for it.
#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    /// The end of the last write.
    written: Option<Instant>,
    /// When two last wanted an address at once.
    crowded: Option<Instant>,
}

/// Somebody wants an address of a block, until this is dropped.
pub struct Booking {
    writer: Arc<Writer>,
    is_coming: bool,
}

// === impl Booking ===

impl Booking {
    fn of(writer: Arc<Writer>) -> Self {
        if writer.booked.fetch_add(1, Ordering::SeqCst) > 0 {
            lock(&writer.rhythm).crowded = Some(Instant::now());
        }
        writer.coming.fetch_add(1, Ordering::SeqCst);
        Self { writer, is_coming: true }
    }

    fn arrive(&mut self) {
        if std::mem::take(&mut self.is_coming) {
            self.writer.coming.fetch_sub(1, Ordering::SeqCst);
            self.writer.arrived.notify_waiters();
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.arrive();
        self.writer.booked.fetch_sub(1, Ordering::SeqCst);
    }
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
        self.change_with(block, change, None).await
    }

    /// Makes a change for which others have perhaps been waiting.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn change_booked(&self, block: IpNet, change: Change, booking: Booking) -> Answer {
        self.change_with(block, change, Some(booking)).await
    }

    /// Says that a change is to follow.
    pub fn book(&self, block: IpNet) -> Booking {
        Booking::of(self.writer(block))
    }

    async fn change_with(&self, block: IpNet, change: Change, mut booking: Option<Booking>) -> Answer {
        let writer = self.writer(block);
        let (answer, outcome) = oneshot::channel();
        lock(&writer.waiting).push((change, answer));
        if let Some(booking) = &mut booking {
            booking.arrive();
        }
        let store = self.store.clone();
        tokio::spawn(async move { writer.write_waiting(&store, block).await });
        outcome.await.unwrap_or_else(|_stopped| Err(IpamError::Unreachable(format!("writing {block}: stopped"))))
    }

    /// How many addresses were free when the block was last seen, if it was.
    pub fn free_when_last_seen(&self, block: IpNet, reserved: &Reserved) -> Option<usize> {
        self.writer(block).known().map(|block| block.spec.free(reserved))
    }

    /// How many addresses will be left when all have theirs that want one now, as far as is known.
    pub fn left_when_last_seen(&self, block: IpNet, reserved: &Reserved) -> Option<usize> {
        let booked = self.writer(block).booked.load(Ordering::SeqCst);
        self.free_when_last_seen(block, reserved).map(|free| free.saturating_sub(booked))
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

// === impl Rhythm ===

impl Rhythm {
    /// The earliest time for the next write.
    fn next(&self, now: Instant) -> Instant {
        let crowded = self.crowded.is_some_and(|at| now < at + CROWD);
        self.written.filter(|_| crowded).map_or(now, |at| at + PACE)
    }
}

// === impl Writer ===

impl Writer {
    async fn write_waiting<S: Store>(&self, store: &S, block: IpNet) {
        let _alone = self.writing.lock().await;
        if lock(&self.waiting).is_empty() {
            return;
        }
        let next = lock(&self.rhythm).next(Instant::now());
        sleep_until(next).await;
        self.gather().await;
        let (changes, answers): (Vec<Change>, Vec<_>) = std::mem::take(&mut *lock(&self.waiting)).into_iter().unzip();
        let written = self.write(store, block, &changes).await;
        lock(&self.rhythm).written = Some(Instant::now());
        match written {
            // Who waits no longer needs no answer.
            Ok(outcomes) => {
                answers.into_iter().zip(outcomes).for_each(|(answer, outcome)| drop(answer.send(Ok(outcome))));
            }
            Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
    }

    /// Waits a moment for those that are about to come.
    async fn gather(&self) {
        let until = Instant::now() + GATHER;
        loop {
            let arrived = self.arrived.notified();
            if self.coming.load(Ordering::SeqCst) == 0 || timeout_at(until, arrived).await.is_err() {
                return;
            }
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
    // Nobody applies blocks, so who wrote which field of one interests nobody. Taking note of it is a fifth of what the write
    // costs the API server; an object without it stays without (Kubernetes, "Clearing managedFields").
    if block.metadata.managed_fields.is_some() {
        block.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_come_together_wait_for_the_next_write() {
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms));
        let next = |written, crowded| Rhythm { written, crowded }.next(now);
        // One after another: at once, however shortly ago the last write was.
        assert_eq!(next(ago(1), None), now);
        assert_eq!(next(ago(1), ago(200)), now);
        // The first of many.
        assert_eq!(next(None, ago(0)), now);
        assert_eq!(next(ago(5), ago(0)), now + PACE - Duration::from_millis(5));
        assert!(next(ago(50), ago(0)) < now);
    }
}
