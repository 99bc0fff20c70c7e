//! One pass of the controller: who is gone, and what of theirs is still there.
//!
//! In: a snapshot of everything. Out: addresses, handles and affinities of the gone are taken back. Never: on the strength of one
//! look, of half a look, or of a look at a cluster without nodes, which is more likely a mistake than a cluster.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::suspects::Suspect;
use crate::crd::{BlockAffinity, IpamHandle, names};
use crate::ipam::claim::{self, Only};
use crate::ipam::snapshot::{Held, Snapshot};
use crate::ipam::store::{Store, StoreError};
use crate::ipam::{Ipam, IpamError};
use crate::object::PodObject;
use crate::suspects::Suspects;

/// Takes back what the gone have left.
pub struct Collector<S> {
    store: S,
    ipam: Ipam<S>,
    grace: Duration,
    suspects: Suspects<Suspect>,
}

/// What one pass took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Addresses.
    pub addresses: usize,
    /// Affinities, with their blocks if these were not in use.
    pub affinities: usize,
    /// Handles without addresses.
    pub handles: usize,
}

// === impl Collector ===

impl<S: Store> Collector<S> {
    /// With this store; what looks abandoned for `grace` is taken back.
    pub fn new(store: S, grace: Duration) -> Self {
        // It gives out nothing, so it needs no node.
        let ipam = Ipam::with_store(store.clone(), "");
        Self { store, ipam, grace, suspects: Suspects::default() }
    }

    /// One pass.
    ///
    /// # Errors
    /// Something could not be read; then it is as if there had been no pass. Or it could not be taken back; the next
    /// pass tries again.
    pub async fn pass(&mut self) -> Result<TakenBack, IpamError> {
        let snapshot = Snapshot::take(&self.store).await?;
        if snapshot.nodes.is_empty() {
            debug!("there are no nodes: nothing is judged");
            return Ok(TakenBack::default());
        }
        let held = snapshot.held();
        let seen = suspects(&snapshot, &held);
        let convicted = self.suspects.observe(seen, Instant::now(), self.grace);
        let mut taken_back = TakenBack::default();
        for suspect in convicted {
            let done = match &suspect {
                Suspect::Address { .. } => self.take_address(&suspect, &held).await,
                Suspect::Affinity { name } => self.give_up(name).await,
                Suspect::Handle { name, version } => self.delete_handle(name, version.as_deref()).await,
            };
            match done {
                Ok(false) => {}
                Ok(true) => taken_back.count(&suspect),
                // Others may still be possible, and all of them again in the next pass.
                Err(error) if !matches!(error, IpamError::Unreachable(_)) => warn!("{error}; {}", error.remedy()),
                Err(error) => return Err(error),
            }
        }
        Ok(taken_back)
    }

    async fn take_address(&self, suspect: &Suspect, held: &[Held]) -> Result<bool, IpamError> {
        let Suspect::Address { block, address, handle, sequence } = suspect else { return Ok(false) };
        let of_address = |held: &&Held| held.address == *address && held.block == *block;
        let Some(held) = held.iter().find(of_address) else { return Ok(false) };
        if !self.is_still_gone(held).await? {
            return Ok(false);
        }
        let done = self.ipam.release_address(*block, *address, handle.as_deref(), *sequence).await?;
        if done {
            info!(%address, "took back the address of {}: {}", held.owner(), held.state.explain());
        }
        Ok(done)
    }

    /// Looks for the owner once more, and for nobody else.
    async fn is_still_gone(&self, held: &Held) -> Result<bool, IpamError> {
        let pod = match &held.pod {
            Some(name) => self.store.get_in::<Pod>(&name.namespace, &name.name).await?.map(PodObject::from),
            None => None,
        };
        let node = match &held.node {
            Some(node) => self.store.get::<Node>(node).await?.is_some(),
            None => true,
        };
        Ok(held.state_with(pod.as_ref(), node).is_leak())
    }

    async fn give_up(&self, name: &str) -> Result<bool, IpamError> {
        let Some(affinity) = self.store.get::<BlockAffinity>(name).await? else { return Ok(false) };
        if self.store.get::<Node>(&affinity.spec.node).await?.is_some() {
            return Ok(false);
        }
        let done = claim::give_up(&self.store, &affinity, Only::Whatever).await?;
        info!(block = affinity.spec.cidr, "gave up a block of Node {}, which is gone", affinity.spec.node);
        Ok(done)
    }

    async fn delete_handle(&self, name: &str, version: Option<&str>) -> Result<bool, IpamError> {
        let handle = self.store.get::<IpamHandle>(name).await?;
        let Some(handle) = handle.filter(|handle| handle.resource_version().as_deref() == version) else {
            return Ok(false);
        };
        match self.store.delete(&handle).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// All that looks abandoned in one look.
fn suspects(snapshot: &Snapshot, held: &[Held]) -> BTreeSet<Suspect> {
    let addresses = held.iter().filter(|held| held.state.is_leak()).map(|held| Suspect::Address {
        block: held.block,
        address: held.address,
        handle: held.handle.clone(),
        sequence: held.sequence,
    });
    let of_nobody =
        |affinity: &&BlockAffinity| affinity.spec.is_of_host() && !snapshot.nodes.contains(&affinity.spec.node);
    let affinities =
        snapshot.affinities.iter().filter(of_nobody).map(|affinity| Suspect::Affinity { name: affinity.name_any() });
    let used: BTreeSet<String> = held.iter().filter_map(|held| held.handle.as_deref()).map(names::handle).collect();
    let handles = snapshot.handles.iter().filter(|handle| !used.contains(&handle.name_any()));
    let handles = handles.map(|handle| Suspect::Handle { name: handle.name_any(), version: handle.resource_version() });
    addresses.chain(affinities).chain(handles).collect()
}

// === impl TakenBack ===

impl TakenBack {
    fn count(&mut self, suspect: &Suspect) {
        match suspect {
            Suspect::Address { .. } => self.addresses += 1,
            Suspect::Affinity { .. } => self.affinities += 1,
            Suspect::Handle { .. } => self.handles += 1,
        }
    }

    /// Whether there was nothing to take back.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for TakenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, affinities, handles } = self;
        write!(f, "took back {addresses} addresses, {affinities} affinities and {handles} empty handles")
    }
}
