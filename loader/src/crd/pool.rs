//! IPPools: the ranges that addresses come from.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UnknownFields, without_defaults};

/// The length of a block's prefix in an IPv4 pool that names none: 64 addresses.
pub const DEFAULT_BLOCK_LEN_V4: u8 = 26;
/// The length of a block's prefix in an IPv6 pool that names none: 64 addresses.
pub const DEFAULT_BLOCK_LEN_V6: u8 = 122;

/// An IPPool's spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "IPPool",
    root = "IpPool",
    plural = "ippools",
    singular = "ippool",
    derive = "PartialEq",
    doc = "A range that addresses of pods and tunnels come from."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct IpPoolSpec {
    /// The range.
    pub cidr: String,
    /// Whether packets to the pool's pods on other nodes go through VXLAN: `Never`, `Always` or `CrossSubnet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<String>,
    /// Whether they go through IPIP: `Never`, `Always` or `CrossSubnet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<String>,
    /// Whether packets that leave all pools get the node's address.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// Whether nothing more is given out.
    #[serde(default)]
    pub disabled: bool,
    /// Whether the range is kept out of BGP.
    #[serde(default, rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    /// The length of a block's prefix; 26 for IPv4 and 122 for IPv6 where it is missing or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub block_size: Option<u8>,
    /// Which nodes may use the pool, by their labels; all where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Whose pods may use the pool, by the labels of their namespace; all where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// What the pool is for: `Workload`, `Tunnel`, `LoadBalancer`. The first two where it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<String>>,
    /// `Automatic`, or `Manual` for a pool that only those get addresses of who ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<String>,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}
