//! BlockAffinities: which node owns which block of Calico's address pools.

use serde::{Deserialize, Serialize};

use super::created_secs;
pub use crate::crd::BlockAffinity;

/// A BlockAffinity. The block is text as the object has it; the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
    /// `spec.cidr`.
    pub cidr: String,
    /// `spec.node`.
    pub node: String,
    /// Whether the block is the node's for good: `confirmed`, not being deleted, and of a host.
    pub confirmed: bool,
}

// === impl BlockObject ===

impl From<BlockAffinity> for BlockObject {
    fn from(affinity: BlockAffinity) -> Self {
        let BlockAffinity { metadata, spec } = affinity;
        Self {
            created_secs: created_secs(&metadata),
            confirmed: spec.is_confirmed(),
            cidr: spec.cidr,
            node: spec.node,
            name: metadata.name.unwrap_or_default(),
        }
    }
}
