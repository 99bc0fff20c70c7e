//! What a node is told. In and out: `nodes/NODE/spec.json`, written by whoever makes the node and read by its first process.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    kubernetes::dir::KubeDir,
    names::LabName,
    rundir::{read_json, write_json},
};

/// A node: who it is and where its files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The cluster's name.
    pub cluster: LabName,
    /// The node's own name.
    pub name: String,
    /// The address of its `eth0`, which is its InternalIP.
    pub address: Ipv4Addr,
    /// Archives with images that it has from the beginning.
    pub images: Vec<PathBuf>,
    /// Whether kube-proxy runs on it.
    pub kube_proxy: bool,
    /// A directory on a disk for everything that is large: images, containers, logs.
    pub data: PathBuf,
}

// === impl Spec ===

impl Spec {
    /// The node's directory below the cluster's: what it is told, and what its programs say.
    pub fn dir(&self) -> PathBuf {
        dir(&self.cluster, &self.name)
    }

    /// Writes it down for the node's first process.
    pub(super) fn save(&self) -> Result<()> {
        write_json(&self.dir().join("spec.json"), self)
    }

    /// Reads it.
    pub(super) fn load(cluster: &LabName, node: &str) -> Result<Self> {
        read_json(&dir(cluster, node).join("spec.json"))
    }
}

/// The directory of a node.
pub(super) fn dir(cluster: &LabName, node: &str) -> PathBuf {
    KubeDir::of(cluster).nodes().join(node)
}
