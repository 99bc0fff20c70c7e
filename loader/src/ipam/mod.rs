//! Addresses for pods and for the overlay, kept as Calico keeps them, so that either can go on where the other stopped.
//!
//! In: who needs an address. Out: the address, written down in the Kubernetes API before it is told. Never: an address with two
//! owners, whoever else writes at the same time and whenever this process dies.
//!
//! ```text
//! IPPool ──cut into──► IPAMBlock (64 addresses) ◄──owned by── BlockAffinity ──► Node
//!                          ▲
//! IPAMHandle (one pod) ────┘ names the blocks that hold its addresses
//! ```
//!
//! The arithmetic ([`cidr`]), the choice of pools ([`pool`], [`selector`]) and what a block makes of a change ([`block`])
//! are functions of values. [`store`] is the seam to the API. Each write compares the object's version; a handle is
//! written before its block and deleted after it, so that what is left of a dead process can always be found.

mod assign;
pub mod block;
pub mod cidr;
pub mod claim;
mod error;
pub mod handle;
#[cfg(test)]
mod memory;
pub mod pool;
pub mod reserved;
pub mod retry;
pub mod selector;
pub mod store;
#[cfg(test)]
mod tests;
mod tunnel;
mod world;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use sha1::{Digest as _, Sha1};

use self::assign::Search;
use self::block::{Change, Claimant, Outcome};
pub use self::cidr::Family;
pub use self::error::IpamError;
use self::handle::Handle;
use self::pool::{Asking, Pool, Use};
use self::retry::Retry;
use self::store::{KubeStore, Store, StoreError};
use self::world::{World, Worlds};
use self::writer::Writers;
use crate::crd::{BlockAffinity, IpamBlock, names};
use crate::model::PrefixMap;
use crate::object::PodName;

/// The name of the network in the handles of pods: `name` of Calico's CNI configuration.
pub const NETWORK: &str = "k8s-pod-network";

/// A pod's need for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequest {
    /// The handle; see [`pod_handle`].
    pub handle: String,
    /// The pod.
    pub pod: PodName,
    /// One address of each of these, from any pool that fits. Empty if `addresses` are asked for.
    pub families: Vec<Family>,
    /// These addresses and no others, one of a family at most.
    pub addresses: Vec<IpAddr>,
    /// Names or ranges of the pools for IPv4; empty: those that fit the node and the namespace.
    pub pools_v4: Vec<String>,
    /// Names or ranges of the pools for IPv6; empty: those that fit the node and the namespace.
    pub pools_v6: Vec<String>,
}

/// Gives addresses to one node's pods and takes them back. Clones share what they know.
pub struct Ipam<S = KubeStore>(Arc<Inner<S>>);

struct Inner<S> {
    store: S,
    node: String,
    worlds: Worlds<S>,
    writers: Writers<S>,
    /// This node's confirmed blocks, as far as they have been read.
    own: tokio::sync::Mutex<Option<Vec<IpNet>>>,
    /// Held while a block is claimed.
    claiming: tokio::sync::Mutex<()>,
    /// The handles that this process has made and not yet taken back.
    handles: Mutex<HashMap<String, Handle<S>>>,
    /// Held by who gives to a handle or takes from it.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

// === impl PodRequest ===

impl PodRequest {
    /// One IPv4 address for a pod.
    pub fn new(container: &str, pod: PodName) -> Self {
        Self { handle: pod_handle(NETWORK, container), pod, families: vec![Family::V4], ..Self::default() }
    }

    fn pools(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.pools_v4,
            Family::V6 => &self.pools_v6,
        }
    }
}

/// The handle of a pod's addresses: the network's name and the sandbox's id (Calico's CNI plugin, `GetHandleID`).
pub fn pod_handle(network: &str, container: &str) -> String {
    format!("{network}.{container}")
}

// === impl Ipam ===

impl Ipam {
    /// For a node, through the Kubernetes API.
    pub fn new(client: kube::Client, node: impl Into<String>) -> Self {
        Self::with_store(KubeStore::new(client), node)
    }
}

impl<S: Store> Ipam<S> {
    /// For a node, through a store.
    pub fn with_store(store: S, node: impl Into<String>) -> Self {
        let node = node.into();
        Self(Arc::new(Inner {
            worlds: Worlds::new(store.clone(), node.clone()),
            writers: Writers::new(store.clone()),
            own: tokio::sync::Mutex::default(),
            claiming: tokio::sync::Mutex::default(),
            handles: Mutex::default(),
            busy: Mutex::default(),
            store,
            node,
        }))
    }

    /// Gives a pod its addresses, as /32 or /128: those of `request.addresses`, or one of each of its families. Asked
    /// again with the same handle it gives the same ones. It goes on if nobody waits for it any more, and
    /// [`Self::release`] waits for it.
    ///
    /// # Errors
    /// The pod has no address then, unless the API server did not answer; [`Self::release`] makes sure.
    pub async fn assign(&self, request: &PodRequest) -> Result<Vec<IpNet>, IpamError> {
        let (inner, request) = (Arc::clone(&self.0), request.clone());
        detached(async move {
            let busy = inner.busy(&request.handle);
            let _alone = busy.lock().await;
            inner.assign_pod(&request).await
        })
        .await
    }

    /// Takes back all addresses of a handle; says which they were. A handle that there is not has none.
    ///
    /// # Errors
    /// Some may not be taken back yet; the same call again goes on with them.
    pub async fn release(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let (inner, handle) = (Arc::clone(&self.0), handle.to_owned());
        detached(async move {
            let busy = inner.busy(&handle);
            let _alone = busy.lock().await;
            inner.release(&handle).await
        })
        .await
    }

    /// The addresses of a handle.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn addresses(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let handle = Handle::read(self.0.store.clone(), handle).await?;
        let mut addresses = Vec::new();
        for block in handle.blocks() {
            addresses.extend(self.0.of_handle(block, handle.id()).await?);
        }
        Ok(addresses)
    }

    /// Takes back one address if the handle that had it at `sequence` still has it. Answers whether it did.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn release_address(
        &self,
        block: IpNet,
        address: IpAddr,
        handle: Option<&str>,
        sequence: Option<u64>,
    ) -> Result<bool, IpamError> {
        let change = Change::TakeBackOne { address, handle: handle.map(str::to_owned), sequence };
        let Outcome::TakenBack(taken_back) = self.0.writers.change(block, change).await? else { return Ok(false) };
        if let (Some(handle), false) = (handle, taken_back.is_empty()) {
            Handle::read(self.0.store.clone(), handle).await?.withdraw(block, taken_back.len()).await?;
        }
        Ok(!taken_back.is_empty())
    }
}

impl<S> Clone for Ipam<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Inner ===

impl<S: Store> Inner<S> {
    async fn assign_pod(&self, request: &PodRequest) -> Result<Vec<IpNet>, IpamError> {
        let mut attributes = BTreeMap::from([
            ("node".to_owned(), self.node.clone()),
            ("timestamp".to_owned(), go_time(Timestamp::now())),
        ]);
        if !request.pod.name.is_empty() {
            attributes.insert("namespace".to_owned(), request.pod.namespace.clone());
            attributes.insert("pod".to_owned(), request.pod.name.clone());
        }
        let who = Arc::new(Claimant { handle: request.handle.clone(), attributes });
        let mut handle = self.known_handle(&request.handle);
        let (world, new) = self.worlds.get().await?;
        let mut found = self.assign_from(&world, request, &who, &mut handle).await;
        if !new && found.as_ref().is_err_and(|error| !error.is_transient()) {
            // What is refused may be refused by a world that has changed.
            let world = self.worlds.look_again().await?;
            found = self.assign_from(&world, request, &who, &mut handle).await;
        }
        match found {
            Ok(found) => {
                self.remember(handle);
                Ok(found.into_iter().map(IpNet::from).collect())
            }
            Err(error) => {
                // One family may have been given out before the other turned out to be full.
                if handle.made_here()
                    && let Err(also) = self.release(&request.handle).await
                {
                    tracing::warn!("taking back what {} had: {also}", request.handle);
                }
                Err(error)
            }
        }
    }

    async fn assign_from(
        &self,
        world: &World,
        request: &PodRequest,
        who: &Arc<Claimant>,
        handle: &mut Handle<S>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let namespace_labels = self.namespace_labels(world, &request.pod.namespace).await?;
        let mut addresses = Vec::new();
        for address in &request.addresses {
            let search = Search::new(self, world, Arc::clone(who), handle);
            addresses.push(search.this(*address).await?);
        }
        let families = if request.addresses.is_empty() { request.families.as_slice() } else { &[] };
        for family in families {
            let asking = Asking {
                family: *family,
                what_for: Use::Workload,
                node_labels: &world.node_labels,
                namespace_labels: &namespace_labels,
                wanted: request.pools(*family),
            };
            let search = Search::new(self, world, Arc::clone(who), handle);
            addresses.push(search.any(&asking).await?);
        }
        Ok(addresses)
    }

    async fn namespace_labels(&self, world: &World, name: &str) -> Result<BTreeMap<String, String>, IpamError> {
        if name.is_empty() || world.pools.iter().all(Pool::takes_any_namespace) {
            return Ok(BTreeMap::new());
        }
        let namespace = self.retried(|| self.store.get::<Namespace>(name)).await?;
        Ok(namespace.and_then(|namespace| namespace.metadata.labels).unwrap_or_default())
    }

    async fn release(&self, id: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut handle = self.forget_handle(id);
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

    async fn of_handle(&self, block: IpNet, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let block = self.retried(|| writer::read(&self.store, block)).await?;
        Ok(block.map(|block| block.spec.of_handle(handle)).unwrap_or_default())
    }

    /// The block in which an address of a pool is: an existing one, whatever its size, or the one that is to be made.
    async fn block_with(&self, pool: &Pool, address: IpAddr) -> Result<IpNet, IpamError> {
        let names = self.retried(|| self.store.names::<IpamBlock>()).await?;
        let existing: PrefixMap<()> = names.iter().filter_map(|n| names::parse_block(n)).map(|b| (b, ())).collect();
        let existing = existing.longest_match(address).map(|(block, ())| block);
        existing.or_else(|| pool.block_of(address)).ok_or(IpamError::OutsidePools { address })
    }

    /// Reads something, a few times if the API server does not answer.
    async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
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

    async fn own_blocks(&self) -> Result<Vec<IpNet>, IpamError> {
        let mut own = self.own.lock().await;
        if own.is_none() {
            let affinities = self.retried(|| self.store.list::<BlockAffinity>()).await?;
            let ours = affinities.iter().filter(|a| a.spec.node == self.node && a.spec.is_confirmed());
            *own = Some(ours.filter_map(|affinity| affinity.spec.block()).collect());
        }
        Ok(own.clone().unwrap_or_default())
    }

    async fn reload_own(&self) -> Result<(), IpamError> {
        *self.own.lock().await = None;
        self.own_blocks().await.map(drop)
    }

    async fn add_own(&self, block: IpNet) {
        let mut own = self.own.lock().await;
        let own = own.get_or_insert_default();
        if !own.contains(&block) {
            own.push(block);
        }
    }

    async fn forget_own(&self, block: IpNet) {
        if let Some(own) = self.own.lock().await.as_mut() {
            own.retain(|own| *own != block);
        }
    }

    fn known_handle(&self, id: &str) -> Handle<S> {
        lock(&self.handles).get(id).cloned().unwrap_or_else(|| Handle::new(self.store.clone(), id))
    }

    fn remember(&self, handle: Handle<S>) {
        lock(&self.handles).insert(handle.id().to_owned(), handle);
    }

    fn forget_handle(&self, id: &str) -> Handle<S> {
        lock(&self.handles).remove(id).unwrap_or_else(|| Handle::new(self.store.clone(), id))
    }

    fn busy(&self, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = lock(&self.busy);
        if let Some(busy) = all.get(handle).and_then(Weak::upgrade) {
            return busy;
        }
        all.retain(|_, busy| busy.strong_count() > 0);
        let busy = Arc::default();
        all.insert(handle.to_owned(), Arc::downgrade(&busy));
        busy
    }

    /// Where this node begins to search in a pool.
    fn first_place(&self) -> u128 {
        u128::from(self.rank(""))
    }

    /// A number that depends on this node's name and on `name`, so that different nodes prefer different things.
    fn rank(&self, name: &str) -> u64 {
        let digest = Sha1::digest(format!("{}/{name}", self.node));
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// A time as Go writes it, and Calico into the attribute `timestamp`: `2026-01-02 03:04:05.123456789 +0000 UTC`.
fn go_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

/// Runs a task to its end, even if the caller goes away.
async fn detached<T: Send + 'static>(
    task: impl Future<Output = Result<T, IpamError>> + Send + 'static,
) -> Result<T, IpamError> {
    match tokio::spawn(task).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(IpamError::Unreachable("the agent stops".to_owned())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
