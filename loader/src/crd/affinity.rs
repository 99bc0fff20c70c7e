//! BlockAffinities: which node owns, or is about to own, which block.

use std::collections::BTreeMap;

use ipnet::IpNet;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{UnknownFields, names, without_defaults};

/// A BlockAffinity's spec. The newer group `projectcalico.org/v3` has the same fields, but `deleted` as a boolean.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "BlockAffinity",
    plural = "blockaffinities",
    singular = "blockaffinity",
    derive = "PartialEq",
    doc = "Which node owns a block of addresses."
)]
#[serde(default)]
#[schemars(extend("required" = ["cidr", "deleted", "node", "state"]), transform = without_defaults)]
pub struct BlockAffinitySpec {
    /// `pending`, `confirmed` or `pendingDeletion`. Only a confirmed one counts.
    pub state: String,
    /// The node that owns the block.
    pub node: String,
    /// `host`, or `virtual` for a block of a load balancer's addresses, which lie on no node. Empty means `host`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The block.
    pub cidr: String,
    /// `true` while the affinity is being deleted; text, not a boolean.
    #[serde(deserialize_with = "text_or_bool")]
    pub deleted: String,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}

/// How far a node has come with owning a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityState {
    /// It wants the block, and may still lose it to another: the same as no affinity.
    Pending,
    /// The block is the node's.
    Confirmed,
    /// The node gives the block back.
    PendingDeletion,
}

// === impl BlockAffinity ===

impl BlockAffinity {
    /// The affinity of a node for a block, as Calico names and labels it.
    pub fn of(node: &str, block: IpNet, state: AffinityState) -> Self {
        let spec = BlockAffinitySpec {
            state: state.as_str().to_owned(),
            node: node.to_owned(),
            kind: "host".to_owned(),
            cidr: block.to_string(),
            deleted: false.to_string(),
            other: UnknownFields::new(),
        };
        let mut affinity = Self::new(&names::affinity(node, block), spec);
        affinity.metadata.labels = Some(BTreeMap::from(names::affinity_labels(node, block)));
        affinity
    }
}

// === impl BlockAffinitySpec ===

impl BlockAffinitySpec {
    /// Whether the block is a node's for good: `confirmed`, not being deleted, and of a host.
    ///
    /// An empty state means `confirmed` in Calico's oldest objects; those are long gone, and Margay takes it for none.
    pub fn is_confirmed(&self) -> bool {
        self.state == AffinityState::Confirmed.as_str() && !self.is_deleted() && self.is_of_host()
    }

    /// Whether it is about to go.
    pub fn is_deleted(&self) -> bool {
        self.deleted == "true"
    }

    /// Whether the owner is a node.
    pub fn is_of_host(&self) -> bool {
        matches!(self.kind.as_str(), "" | "host")
    }

    /// The block, if it is one.
    pub fn block(&self) -> Option<IpNet> {
        self.cidr.parse().ok()
    }
}

// === impl AffinityState ===

impl AffinityState {
    /// As it stands in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::PendingDeletion => "pendingDeletion",
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
