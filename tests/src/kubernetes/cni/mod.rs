//! Who makes the pods' network. In: a cluster whose nodes have registered. Out: the chosen plugin, installed as its users
//! would install it. Never: a wait for the nodes; that is the cluster's.

mod bridge;
pub mod margay;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cluster::KubeCluster;

/// The choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// Nobody: nodes stay NotReady until somebody installs a plugin
    None,
    /// The reference plugins bridge and host-local, with routes between the nodes
    Bridge,
    /// Margay, by `kubectl apply` of deploy/
    #[default]
    Margay,
}

/// Installs what was chosen.
///
/// # Errors
/// It cannot be installed.
pub(super) fn install(cluster: &KubeCluster) -> Result<()> {
    match cluster.choices().cni {
        Cni::None => Ok(()),
        Cni::Bridge => bridge::install(cluster).context("installing the reference plugins"),
        Cni::Margay => margay::install(cluster).context("installing Margay"),
    }
}
