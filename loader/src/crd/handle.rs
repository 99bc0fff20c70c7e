//! IPAMHandles: in which blocks to look for the addresses of one pod.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UnknownFields, null_as_default, without_defaults};

/// An IPAMHandle's spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "IPAMHandle",
    root = "IpamHandle",
    plural = "ipamhandles",
    singular = "ipamhandle",
    derive = "PartialEq",
    doc = "The blocks that hold addresses of one pod or tunnel."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct IpamHandleSpec {
    /// The handle; the object's name is the same in lower case.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// How many addresses each block holds for the handle. It is written before the block, so it may promise more than
    /// the block holds, and never less.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(with = "BTreeMap<String, i64>")]
    pub block: BTreeMap<String, usize>,
    /// Whether the handle is about to go.
    #[serde(default)]
    pub deleted: bool,
    /// Fields of other versions.
    #[serde(flatten)]
    pub other: UnknownFields,
}
