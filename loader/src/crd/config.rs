//! What holds for all pools: IPAMConfig and IPReservations.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UnknownFields, null_as_default, without_defaults};

/// The name of the one IPAMConfig that counts.
pub const DEFAULT_CONFIG: &str = "default";

/// An IPAMConfig's spec.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "IPAMConfig",
    root = "IpamConfig",
    plural = "ipamconfigs",
    singular = "ipamconfig",
    derive = "PartialEq",
    doc = "Rules for giving out addresses. Only the object of the name `default` counts."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct IpamConfigSpec {
    /// Whether a node may only give out addresses of its own blocks.
    pub strict_affinity: bool,
    /// Whether a node takes a new block when its own are full.
    pub auto_allocate_blocks: bool,
    /// How many blocks of each family a node may own; 0 means 20.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(with = "i64", range(min = 0, max = 2_147_483_647))]
    pub max_blocks_per_host: u32,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}

/// An IPReservation's spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "IPReservation",
    root = "IpReservation",
    plural = "ipreservations",
    singular = "ipreservation",
    derive = "PartialEq",
    doc = "Addresses that are not given out unless somebody asks for them by name."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct IpReservationSpec {
    /// Addresses and blocks.
    #[serde(default, rename = "reservedCIDRs", deserialize_with = "null_as_default")]
    pub reserved_cidrs: Vec<String>,
}

// === impl IpamConfigSpec ===

/// What holds where there is no IPAMConfig.
impl Default for IpamConfigSpec {
    fn default() -> Self {
        Self { strict_affinity: false, auto_allocate_blocks: true, max_blocks_per_host: 0, other: UnknownFields::new() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
