//! How a block becomes a node's, and stops being it.
//!
//! In: a node and a block. Out: whether the node owns it now. Never: a block with two owners: the IPAMBlock is made by one and only
//! one, and an affinity that is not `confirmed` counts for nothing.
//!
//! ```text
//! nothing ──► affinity pending ──► IPAMBlock ──► affinity confirmed
//! nothing ◄── IPAMBlock gone, or without an owner ◄── affinity pendingDeletion
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::error::IpamError;
use super::retry::Retry;
use super::store::{Store, StoreError};
use super::writer;
use crate::crd::{AffinityState, BlockAffinity, IpamBlock, IpamBlockSpec, names};

/// What came of claiming a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the node's.
    Ours,
    /// Somebody else was first.
    Lost,
}

/// What must be so for a block to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Nobody has an address of it. With a number: and its sequence number is this, so nobody has had one since.
    Unused(Option<u64>),
    /// Nothing. A block with addresses in use stays, without an owner.
    Whatever,
}

/// Makes a block the node's, from wherever an earlier attempt has left it.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn claim<S: Store>(store: &S, node: &str, block: IpNet) -> Result<Claim, IpamError> {
    let mut retry = Retry::default();
    loop {
        match try_claim(store, node, block).await {
            Ok(claim) => return Ok(claim),
            Err(error) => retry.after(error).await?,
        }
    }
}

async fn try_claim<S: Store>(store: &S, node: &str, net: IpNet) -> Result<Claim, StoreError> {
    let mut affinity = pending_affinity(store, node, net).await?;
    match store.create(&new_block(node, net)).await {
        Ok(_) => {}
        Err(StoreError::Exists(what)) => match writer::read(store, net).await? {
            None => return Err(StoreError::Conflict(what)),
            // Confirmed and ours: there is nothing to do, and a write would only get in the way of who uses it.
            Some(block) if block.spec.belongs_to(node) && affinity.spec.is_confirmed() => return Ok(Claim::Ours),
            Some(block) if block.spec.belongs_to(node) => touch(store, block).await?,
            Some(_) => {
                store.delete(&affinity).await?;
                return Ok(Claim::Lost);
            }
        },
        Err(error) => return Err(error),
    }
    if !affinity.spec.is_confirmed() {
        AffinityState::Confirmed.as_str().clone_into(&mut affinity.spec.state);
        store.update(&affinity).await?;
    }
    Ok(Claim::Ours)
}

/// The node's affinity for the block, made or brought to `pending` unless it is confirmed.
async fn pending_affinity<S: Store>(store: &S, node: &str, block: IpNet) -> Result<BlockAffinity, StoreError> {
    let wanted = BlockAffinity::of(node, block, AffinityState::Pending);
    let what = match store.create(&wanted).await {
        Err(StoreError::Exists(what)) => what,
        made => return made,
    };
    let Some(mut found) = store.get::<BlockAffinity>(&names::affinity(node, block)).await? else {
        return Err(StoreError::Conflict(what));
    };
    if found.spec.is_deleted() {
        store.delete(&found).await?;
        return Err(StoreError::Conflict(what));
    }
    if found.spec.is_confirmed() || found.spec.state == wanted.spec.state {
        return Ok(found);
    }
    found.spec.state = wanted.spec.state;
    store.update(&found).await
}

/// Writes a block without changing what it says, so that whoever read it before cannot write it any more.
async fn touch<S: Store>(store: &S, mut block: IpamBlock) -> Result<(), StoreError> {
    block.spec.sequence_number += 1;
    store.update(&block).await.map(drop)
}

fn new_block(node: &str, block: IpNet) -> IpamBlock {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut spec = IpamBlockSpec::empty_of(node, block, u64::try_from(since_1970.as_nanos()).unwrap_or_default());
    spec.affinity_claim_time = Some(Time(Timestamp::now()));
    IpamBlock::new(&names::block(block), spec)
}

/// Gives a block up. Answers whether it was; if not, it is in use.
///
/// # Errors
/// The API server does not answer or refuses, or the block changed in the meantime.
pub async fn give_up<S: Store>(store: &S, affinity: &BlockAffinity, only: Only) -> Result<bool, StoreError> {
    let Some(net) = affinity.spec.block() else { return store.delete(affinity).await.map(|()| true) };
    let block = match writer::read(store, net).await? {
        Some(block) if block.spec.belongs_to(&affinity.spec.node) => block,
        // The affinity is for nothing, or for another's block.
        _ => return store.delete(affinity).await.map(|()| true),
    };
    if let Only::Unused(sequence) = only
        && (!block.spec.is_unused() || sequence.is_some_and(|sequence| sequence != block.spec.sequence_number))
    {
        return Ok(false);
    }
    let mut affinity = affinity.clone();
    AffinityState::PendingDeletion.as_str().clone_into(&mut affinity.spec.state);
    let affinity = store.update(&affinity).await?;
    if block.spec.is_unused() {
        store.delete(&block).await?;
    } else {
        let mut block = block;
        block.spec.affinity = None;
        block.spec.affinity_claim_time = None;
        touch(store, block).await?;
    }
    store.delete(&affinity).await?;
    Ok(true)
}
