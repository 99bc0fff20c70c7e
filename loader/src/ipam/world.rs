//! What is known of the cluster when an address is asked for: pools, rules, this node's labels.
//!
//! In: the store. Out: a [`World`], at most [`WORLD_AGE_MAX`] old. Never: a reason to refuse; who would be refused asks for a new one first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::error::IpamError;
use super::pool::Pool;
use super::reserved::Reserved;
use super::retry::Retry;
use super::store::{Store, StoreError};
use crate::crd::{DEFAULT_CONFIG, IpPool, IpReservation, IpamConfig, IpamConfigSpec};

/// For how long what was read may be used. What it is for needs no more: a pool that was disabled or a node that was
/// labelled this many seconds ago may be overlooked once.
pub const WORLD_AGE_MAX: Duration = Duration::from_secs(10);
/// How many blocks of a family a node may own if nobody says (libcalico-go, lib/ipam).
const DEFAULT_BLOCK_LIMIT: u32 = 20;

/// Pools, rules and this node's labels.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The pools that make sense.
    pub pools: Vec<Pool>,
    /// Addresses that are kept back.
    pub reserved: Arc<Reserved>,
    /// The rules.
    pub config: IpamConfigSpec,
    /// The labels of this node.
    pub node_labels: BTreeMap<String, String>,
}

/// The world as it was last read.
pub struct Worlds<S> {
    store: S,
    node: String,
    last: Mutex<Option<(Instant, Arc<World>)>>,
}

// === impl World ===

impl World {
    /// The pool in which an address is.
    pub fn pool_of(&self, ip: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| !pool.disabled && pool.cidr.contains(&ip))
    }

    /// How many blocks of a family the node may own.
    pub fn block_limit(&self) -> usize {
        let limit = self.config.max_blocks_per_host;
        (if limit == 0 { DEFAULT_BLOCK_LIMIT } else { limit }) as usize
    }
}

// === impl Worlds ===

impl<S: Store> Worlds<S> {
    /// For a node.
    pub fn new(store: S, node: String) -> Self {
        Self { store, node, last: Mutex::default() }
    }

    /// The world, and whether it was read just now.
    ///
    /// # Errors
    /// It cannot be read, or there is no such node.
    pub async fn get(&self) -> Result<(Arc<World>, bool), IpamError> {
        let mut last = self.last.lock().await;
        if let Some((_, world)) = last.as_ref().filter(|(read, _)| read.elapsed() < WORLD_AGE_MAX) {
            return Ok((Arc::clone(world), false));
        }
        let mut retry = Retry::default();
        let world = loop {
            match self.read().await {
                Ok(world) => break Arc::new(world?),
                Err(error) => retry.after(error).await?,
            }
        };
        *last = Some((Instant::now(), Arc::clone(&world)));
        Ok((world, true))
    }

    /// The world as it is now.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn look_again(&self) -> Result<Arc<World>, IpamError> {
        *self.last.lock().await = None;
        Ok(self.get().await?.0)
    }

    async fn read(&self) -> Result<Result<World, IpamError>, StoreError> {
        let store = &self.store;
        let (pools, reservations, config, node) = tokio::try_join!(
            store.list::<IpPool>(),
            store.list::<IpReservation>(),
            store.get::<IpamConfig>(DEFAULT_CONFIG),
            store.get::<Node>(&self.node),
        )?;
        let Some(node) = node else { return Ok(Err(IpamError::NoNode { node: self.node.clone() })) };
        Ok(Ok(World {
            pools: sensible(&pools),
            reserved: Arc::new(Reserved::of(&reservations)),
            config: config.map(|config| config.spec).unwrap_or_default(),
            node_labels: node.metadata.labels.unwrap_or_default(),
        }))
    }
}

/// The pools that make sense; the log says what is wrong with the others.
pub fn sensible(pools: &[IpPool]) -> Vec<Pool> {
    let read = |pool| Pool::read(pool).inspect_err(|problem| warn!("{problem}")).ok();
    pools.iter().filter_map(read).collect()
}
