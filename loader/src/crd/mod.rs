//! The custom resources in which Calico keeps addresses: group `crd.projectcalico.org`, version `v1`.
//!
//! In and out: objects as the Kubernetes API stores them, field by field as Calico writes them (libcalico-go,
//! lib/apis and lib/backend/k8s/resources), so that either side reads what the other wrote. A field that a newer Calico
//! adds to what Margay writes too (blocks, affinities, handles) survives Margay's writing.
//! Never: a decision about addresses; [`crate::ipam`] makes those.
//!
//! `deploy/crds/` is generated from these types. A test compares the two;
//! `MARGAY_WRITE_CRDS=1 cargo test -p margay --lib crd` rewrites the files.

mod affinity;
mod block;
mod cluster;
mod config;
mod handle;
pub mod names;
mod pool;
#[cfg(test)]
mod tests;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::Schema;
use serde::{Deserialize, Deserializer};

pub use affinity::{AffinityState, BlockAffinity, BlockAffinitySpec};
pub use block::{Allocation, IpamBlock, IpamBlockSpec};
pub use cluster::{ClusterInformation, ClusterInformationSpec, DEFAULT_CLUSTER};
pub use config::{DEFAULT_CONFIG, IpReservation, IpReservationSpec, IpamConfig, IpamConfigSpec};
pub use handle::{IpamHandle, IpamHandleSpec};
pub use pool::{DEFAULT_BLOCK_LEN_V4, DEFAULT_BLOCK_LEN_V6, IpPool, IpPoolSpec};

/// The fields of an object that this version does not know; they are written back as they were read.
pub type UnknownFields = std::collections::BTreeMap<String, serde_json::Value>;

/// The definitions of all kinds, in order of their names.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        BlockAffinity::crd(),
        ClusterInformation::crd(),
        IpamBlock::crd(),
        IpamConfig::crd(),
        IpamHandle::crd(),
        IpPool::crd(),
        IpReservation::crd(),
    ]
}

/// The definitions as the files of `deploy/crds/`: name and YAML.
///
/// # Errors
/// A definition cannot be written as YAML.
pub fn manifests() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    let manifest = |definition: &CustomResourceDefinition| {
        let file = format!("{}.yaml", definition.spec.names.plural);
        let yaml = serde_saphyr::to_string(definition)?;
        Ok((file, format!("# Generated from loader/src/crd, whose first comment says how.\n{yaml}")))
    };
    definitions().iter().map(manifest).collect()
}

/// Takes the defaults out of a schema: the API server would write them into objects that Calico left without.
fn without_defaults(schema: &mut Schema) {
    schema.remove("default");
    let properties = schema.get_mut("properties").and_then(|p| p.as_object_mut());
    for property in properties.into_iter().flat_map(|p| p.values_mut()) {
        if let Some(property) = property.as_object_mut() {
            property.remove("default");
        }
    }
}

/// Go writes an empty list or map as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
