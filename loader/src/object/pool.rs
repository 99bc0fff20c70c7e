//! IPPools: which addresses are pods', and whether what leaves them all gets the node's address.

use serde::{Deserialize, Serialize};

use super::created_secs;
use crate::crd::{IpPool, IpPoolSpec};

/// An IPPool. The range is text as the object has it; the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
    /// `spec.cidr`.
    pub cidr: String,
    /// `spec.natOutgoing`: what its pods send out of all pools leaves with their node's address.
    pub nat_outgoing: bool,
}

// === impl PoolObject ===

impl From<IpPool> for PoolObject {
    fn from(pool: IpPool) -> Self {
        let IpPool { metadata, spec } = pool;
        // Who may have an address of it is the address manager's business; a disabled pool's pods go on.
        let IpPoolSpec { cidr, nat_outgoing, .. } = spec;
        Self { created_secs: created_secs(&metadata), cidr, nat_outgoing, name: metadata.name.unwrap_or_default() }
    }
}
