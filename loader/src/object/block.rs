//! BlockAffinities: which node owns which block of Calico's address pools.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::created_secs;

/// A BlockAffinity's spec as the Kubernetes API keeps it (libcalico-go, lib/apis/crd.projectcalico.org/v1).
///
/// The newer group `projectcalico.org/v3` has the same fields, but `deleted` as a boolean.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "crd.projectcalico.org", version = "v1", kind = "BlockAffinity", plural = "blockaffinities")]
#[serde(default)]
pub struct BlockAffinitySpec {
    /// `confirmed`, `pending` or `pendingDeletion`.
    pub state: String,
    /// The node that owns the block.
    pub node: String,
    /// `host`, or `virtual` for a block of a load balancer's addresses, which lie on no node. Empty means `host`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The block.
    pub cidr: String,
    /// `true` while the affinity is being deleted.
    #[serde(deserialize_with = "text_or_bool")]
    pub deleted: String,
}

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
        let BlockAffinitySpec { state, node, kind, cidr, deleted } = spec;
        Self {
            created_secs: created_secs(&metadata),
            confirmed: state == "confirmed" && deleted != "true" && matches!(kind.as_str(), "" | "host"),
            cidr,
            node,
            name: metadata.name.unwrap_or_default(),
        }
    }
}

/// `"true"` as v1 has it and `true` as v3 has it are one.
fn text_or_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Deleted {
        Bool(bool),
        Text(String),
    }
    Ok(match Deserialize::deserialize(deserializer)? {
        Deleted::Bool(deleted) => deleted.to_string(),
        Deleted::Text(deleted) => deleted,
    })
}
