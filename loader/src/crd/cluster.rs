//! What is known of a cluster as a whole: ClusterInformation.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::without_defaults;

/// The name of the one ClusterInformation that counts.
pub const DEFAULT_CLUSTER: &str = "default";

/// A ClusterInformation's spec. Margay writes it once, where there is none, and never over what is there.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crd.projectcalico.org",
    version = "v1",
    kind = "ClusterInformation",
    plural = "clusterinformations",
    singular = "clusterinformation",
    derive = "PartialEq",
    doc = "What is known of the cluster as a whole. Only the object of the name `default` counts."
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = without_defaults)]
pub struct ClusterInformationSpec {
    /// The cluster's own name among all clusters: 32 hexadecimal digits.
    #[serde(default, rename = "clusterGUID", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cluster_guid: Option<String>,
    /// What it consists of, separated by commas: `k8s,kdd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cluster_type: Option<String>,
    /// The version of Calico that runs. Where it is missing, calicoctl does not compare it with its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub calico_version: Option<String>,
    /// Which of Calico's variants is to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub variant: Option<String>,
    /// Whether the objects may be relied on; false while they are being moved from one store to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub datastore_ready: Option<bool>,
}
