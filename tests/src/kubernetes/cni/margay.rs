//! Margay itself, installed as its users do it. In: a cluster, `deploy/` and an image. Out: what `kubectl apply -k deploy/`
//! makes of them. Never: another way onto a node than the manifests'.

use anyhow::{Result, bail};

use crate::kubernetes::cluster::KubeCluster;

/// The image on every node, then the manifests.
pub(super) fn install(_cluster: &KubeCluster) -> Result<()> {
    bail!("the manifests in deploy/ are not there yet; choose --cni none or --cni bridge")
}
