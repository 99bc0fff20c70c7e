//! IPAMBlocks: the addresses of one block, which are taken, and by whom.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UnknownFields, null_as_default, without_defaults};

/// An IPAMBlock's spec. An *ordinal* is an address's place in the block: 0 for its first address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "IPAMBlock",
    root = "IpamBlock",
    plural = "ipamblocks",
    singular = "ipamblock",
    derive = "PartialEq",
    doc = "The addresses of one block: which are taken, and by whom."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct IpamBlockSpec {
    /// The block.
    pub cidr: String,
    /// `host:` and the node that owns the block; nothing for a block that nobody owns any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// When the owner claimed the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub affinity_claim_time: Option<Time>,
    /// For each ordinal the index into `attributes` of who has it, or null if it is free.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(with = "Vec<Option<i64>>")]
    pub allocations: Vec<Option<usize>>,
    /// The free ordinals. The first is given out next, and one that comes back goes to the end, so that an address
    /// rests as long as it can before somebody else gets it.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(with = "Vec<i64>")]
    pub unallocated: Vec<usize>,
    /// Who has addresses; one entry may stand for several addresses.
    #[serde(deserialize_with = "null_as_default")]
    pub attributes: Vec<Allocation>,
    /// Goes up with each write. It begins at the time of the block's making, in nanoseconds since 1970 UTC, so that a
    /// block that is deleted and made again never repeats a number.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(with = "i64")]
    pub sequence_number: u64,
    /// For each ordinal that is taken, as text, the `sequenceNumber` at which it was.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schemars(with = "BTreeMap<String, i64>")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Whether the block is about to go.
    #[serde(default)]
    pub deleted: bool,
    /// Out of use; Calico's schema asks for it.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = without_defaults)]
pub struct Allocation {
    /// The handle with which the address was taken.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// What is known of the owner: `node`, `namespace`, `pod`, `timestamp`, `type`.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}
