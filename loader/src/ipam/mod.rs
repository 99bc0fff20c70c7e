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
pub mod check;
pub mod cidr;
pub mod claim;
mod error;
pub mod handle;
mod inner;
#[cfg(test)]
pub(crate) mod memory;
pub mod pool;
pub mod reserved;
pub mod retry;
pub mod selector;
pub mod snapshot;
pub mod store;
mod survey;
#[cfg(test)]
mod tests;
mod tunnel;
mod world;
mod writer;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use self::assign::Search;
use self::block::{Change, Claimant, Outcome};
pub use self::cidr::Family;
pub use self::error::IpamError;
use self::handle::Handle;
use self::inner::Inner;
use self::pool::{Asking, Use};
use self::store::{KubeStore, Store};
use self::world::World;
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
        Self(Arc::new(Inner::new(store, node.into())))
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
            let given = inner.assign_pod(&request).await;
            let ahead = Arc::clone(&inner);
            tokio::spawn(async move { ahead.claim_ahead().await });
            given
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
            attributes.insert("namespace".to_owned(), request.pod.namespace.to_string());
            attributes.insert("pod".to_owned(), request.pod.name.to_string());
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
