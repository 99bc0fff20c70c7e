//! What is kept on disk for the next agent, so that it can begin with what this one knew while the server is away.
//!
//! In: objects and the time. Out: a value that serde writes and reads, and when it is worth writing. Never: a file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use crate::object::{
    BlockObject, Held, NamespaceObject, NodeObject, Objects, PodName, PodObject, PolicyName, PolicyObject, PoolObject,
    ServiceName, ServiceObject, SliceName, SliceObject,
};

/// The last good state. A kind that an older version did not watch is missing, and not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// When this was last known to be the server's state, in seconds since 1970 UTC.
    as_of_secs: u64,
    nodes: Option<BTreeMap<String, Held<NodeObject>>>,
    pods: Option<BTreeMap<PodName, Held<PodObject>>>,
    blocks: Option<BTreeMap<String, Held<BlockObject>>>,
    pools: Option<BTreeMap<String, Held<PoolObject>>>,
    namespaces: Option<BTreeMap<String, Held<NamespaceObject>>>,
    policies: Option<BTreeMap<PolicyName, Held<PolicyObject>>>,
    services: Option<BTreeMap<ServiceName, Held<ServiceObject>>>,
    slices: Option<BTreeMap<SliceName, Held<SliceObject>>>,
}

/// When to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    changed: bool,
    not_before: Option<Instant>,
}

/// The shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(5);
/// Writing takes at most this part of the time, however large the cluster is.
const SHARE: u32 = 20;

// === impl Kept ===

impl Kept {
    /// `objects`, which were the server's at `as_of`: each is held, and none copied.
    pub(super) fn of(objects: &Objects, as_of: SystemTime) -> Self {
        let Objects { nodes, pods, blocks, pools, namespaces, policies, services, slices } = objects;
        Self {
            as_of_secs: as_of.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            nodes: Some(nodes.clone()),
            pods: Some(pods.clone()),
            blocks: Some(blocks.clone()),
            pools: Some(pools.clone()),
            namespaces: Some(namespaces.clone()),
            policies: Some(policies.clone()),
            services: Some(services.clone()),
            slices: Some(slices.clone()),
        }
    }

    /// The objects, the kinds that they are of, and when they were the server's.
    pub(super) fn into_parts(self) -> (Objects, BTreeSet<Kind>, SystemTime) {
        let Self { as_of_secs, nodes, pods, blocks, pools, namespaces, policies, services, slices } = self;
        let kinds = [
            (Kind::Node, nodes.is_some()),
            (Kind::Pod, pods.is_some()),
            (Kind::Block, blocks.is_some()),
            (Kind::Pool, pools.is_some()),
            (Kind::Namespace, namespaces.is_some()),
            (Kind::Policy, policies.is_some()),
            (Kind::Service, services.is_some()),
            (Kind::Slice, slices.is_some()),
        ];
        let objects = Objects {
            nodes: nodes.unwrap_or_default(),
            pods: pods.unwrap_or_default(),
            blocks: blocks.unwrap_or_default(),
            pools: pools.unwrap_or_default(),
            namespaces: namespaces.unwrap_or_default(),
            policies: policies.unwrap_or_default(),
            services: services.unwrap_or_default(),
            slices: slices.unwrap_or_default(),
        };
        let kinds = kinds.into_iter().filter_map(|(kind, known)| known.then_some(kind)).collect();
        (objects, kinds, UNIX_EPOCH + Duration::from_secs(as_of_secs))
    }
}

// === impl Rhythm ===

impl Rhythm {
    /// Nothing to write.
    pub(super) fn new() -> Self {
        Self { changed: false, not_before: None }
    }

    /// There is something to write.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether there is something to write.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Whether to write now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.changed && self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// What there is is being written. What changes from here on is to be written again.
    pub(super) fn begun(&mut self) {
        self.changed = false;
    }

    /// It was tried to write, which took so long; whether it `worked`.
    pub(super) fn written<E>(&mut self, result: &Result<(), E>, took: Duration, now: Instant) {
        self.changed |= result.is_err();
        self.not_before = Some(now + PAUSE.max(took * SHARE));
    }
}
