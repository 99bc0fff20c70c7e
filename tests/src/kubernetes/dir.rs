//! The directory of a control plane or a cluster, `/run/margay-lab/NAME/`, and what it remembers there, so that another
//! process can find its way around and take everything down.
//!
//! ```text
//! kubernetes.json     what it is (State)
//! kubeconfig          for the cluster's administrator
//! pki/                the authority, and all certificates and keys
//! kubeconfigs/        of components and nodes
//! daemons/            of each program: NAME.log, NAME.json (pid)
//! etcd/               etcd's data and sockets
//! nodes/NODE/         what a node is told, and what it says
//! ```

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{cluster::Choices, control_plane::Settings};
use crate::{
    names::{LabName, RUN},
    process::Process,
    rundir::{read_json, write_json},
};

/// What `kubernetes.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Its name, which no lab may have at the same time.
    pub name: LabName,
    /// The process that takes it down when it ends. `None`: it stays until `lab down`.
    pub owner: Option<Process>,
    /// How its control plane runs.
    pub settings: Settings,
    /// What was chosen for its nodes, if it is to have some.
    pub cluster: Option<Choices>,
}

/// The paths of one control plane or cluster.
#[derive(Clone, Debug)]
pub struct KubeDir {
    root: PathBuf,
}

// === impl KubeDir ===

impl KubeDir {
    /// The directory of `name`, whether it exists or not.
    pub fn of(name: &LabName) -> Self {
        Self { root: name.dir() }
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// It exists: a lab or cluster of this name is up.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(RUN).with_context(|| format!("making {RUN}"))?;
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "{} exists: a lab or cluster of this name is up; take it down first, or choose another name",
                self.root.display()
            ),
            made => made.with_context(|| format!("making {}", self.root.display()))?,
        }
        for dir in [self.kubeconfigs(), self.daemons(), self.etcd(), self.nodes()] {
            fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(())
    }

    /// Takes the directory away. No error if there is none.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("deleting {}", self.root.display()));
            }
            _ => {}
        }
        // Fails while others have theirs.
        let _ = fs::remove_dir(RUN);
        Ok(())
    }

    /// Whether there is a control plane or cluster here; a lab of plain namespaces is none.
    pub fn exists(&self) -> bool {
        self.root.join("kubernetes.json").exists()
    }

    /// What stands here.
    ///
    /// # Errors
    /// There is nothing, or it cannot be read.
    pub fn load(&self) -> Result<State> {
        read_json(&self.root.join("kubernetes.json"))
    }

    /// Writes down what stands here.
    ///
    /// # Errors
    /// The disk is full, or the directory is gone.
    pub fn save(&self, state: &State) -> Result<()> {
        write_json(&self.root.join("kubernetes.json"), state)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Kubeconfigs of everybody else.
    pub fn kubeconfigs(&self) -> PathBuf {
        self.root.join("kubeconfigs")
    }

    /// Logs and pids of the control plane's programs.
    pub fn daemons(&self) -> PathBuf {
        self.root.join("daemons")
    }

    /// etcd's data and sockets.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Directories of nodes.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }
}
