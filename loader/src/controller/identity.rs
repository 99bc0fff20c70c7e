//! The cluster's own description, which Calico's tools ask for before anything else (`calicoctl ipam check`).
//!
//! In: whether the ClusterInformation `default` is there. Out: it is, also on a cluster that never had Calico. Never: a
//! change of one that is there.

use kube::api::ObjectMeta;
use tracing::{debug, info};

use crate::crd::{ClusterInformation, ClusterInformationSpec, DEFAULT_CLUSTER};
use crate::ipam::retry::random;
use crate::ipam::store::{Store, StoreError};

/// As Calico describes a cluster whose objects are in the Kubernetes API (its manifests' `CLUSTER_TYPE`), and that it is ours.
const CLUSTER_TYPE: &str = "k8s,kdd,margay";

/// Writes the description where there is none.
///
/// # Errors
/// It can be neither read nor written. Nothing of Margay's depends on it.
pub async fn ensure<S: Store>(store: &S) -> Result<(), StoreError> {
    if store.get::<ClusterInformation>(DEFAULT_CLUSTER).await?.is_some() {
        return Ok(());
    }
    match store.create(&described()).await {
        Ok(_) => info!("described the cluster in ClusterInformation {DEFAULT_CLUSTER}"),
        Err(StoreError::Exists(_)) => debug!("somebody else has described the cluster"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// No Calico version: calicoctl would refuse to work with another one than its own.
fn described() -> ClusterInformation {
    let spec = ClusterInformationSpec {
        cluster_guid: Some(format!("{:016x}{:016x}", random(), random())),
        cluster_type: Some(CLUSTER_TYPE.to_owned()),
        datastore_ready: Some(true),
        ..ClusterInformationSpec::default()
    };
    let metadata = ObjectMeta { name: Some(DEFAULT_CLUSTER.to_owned()), ..ObjectMeta::default() };
    ClusterInformation { metadata, spec }
}
