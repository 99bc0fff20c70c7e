//! The directory of a lab, `/run/margay-lab/LAB/`, and what it remembers there, so that another process can find its
//! way around and take the lab down.
//!
//! ```text
//! lab.json            what the lab is (State)
//! manifests/          of labs that a builder made; others have theirs elsewhere
//! status/             manifests of what the lab assigned: addresses, podCIDRs
//! bpf/                the lab's own bpffs, one directory below it for each node (dots become underscores)
//! nodes/NODE/         agent.json (pid), agent.log, state/ (the agent's --state-dir)
//! ```

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use margay_loader::source::snapshot::Snapshot;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    agent::Agent,
    cluster::Cluster,
    names::{LabName, RUN, without_dots},
    process::Process,
};

/// What `lab.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The lab's name.
    pub name: LabName,
    /// The directory of manifests that it follows.
    pub manifests: PathBuf,
    /// The process that takes it down when it ends. `None`: it stays until `lab down`.
    pub owner: Option<Process>,
    /// What stands.
    pub cluster: Cluster,
    /// What the manifests said when they were last read.
    pub snapshot: Snapshot,
    /// What the agents get besides what they need.
    pub agent_arguments: Vec<String>,
}

/// The paths of one lab.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

// === impl RunDir ===

impl RunDir {
    /// The directory of the lab `name`, whether it exists or not.
    pub fn of(name: &LabName) -> Self {
        Self { root: name.dir() }
    }

    /// Makes the directory, with its bpffs and its tmpfs.
    ///
    /// # Errors
    /// It exists: the lab is up. Or one of them cannot be mounted; nothing is left then.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(RUN).with_context(|| format!("making {RUN}"))?;
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} exists: a lab of this name is up; take it down first, or choose another name", self.show())
            }
            made => made.with_context(|| format!("making {}", self.show()))?,
        }
        self.furnish().inspect_err(|_| {
            // The error above is the one to report.
            let _ = self.remove();
        })
    }

    fn furnish(&self) -> Result<()> {
        for dir in [self.bpf(), self.status(), self.nodes()] {
            fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        mount(Some("bpf"), &self.bpf(), Some("bpf"), MsFlags::empty(), Some("mode=0700")).with_context(|| {
            format!("mounting bpffs on {}: are you root, and has the kernel BPF?", self.bpf().display())
        })?;
        // An agent keeps its files in a node's /run, and that is in memory.
        mount(Some("tmpfs"), &self.nodes(), Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .with_context(|| format!("mounting tmpfs on {}", self.nodes().display()))
    }

    /// Takes the directory away, with bpffs and all pins in it, and tmpfs. No error if there is none.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for mounted in [self.bpf(), self.nodes()] {
            match umount2(&mounted, MntFlags::MNT_DETACH) {
                // EINVAL: nothing is mounted there.
                Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
                Err(error) => return Err(error).with_context(|| format!("unmounting {}", mounted.display())),
            }
        }
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("deleting {}", self.show()));
            }
            _ => {}
        }
        // Fails while other labs have theirs.
        let _ = fs::remove_dir(RUN);
        Ok(())
    }

    /// The state of the lab.
    ///
    /// # Errors
    /// There is no such lab, or its state cannot be read.
    pub fn load(&self) -> Result<State> {
        let path = self.root.join("lab.json");
        if !self.root.exists() {
            bail!("there is no lab in {}; `lab up DIR` makes one, `lab status` lists them", self.show());
        }
        read_json(&path)
    }

    /// Writes the state of the lab.
    ///
    /// # Errors
    /// The disk is full, or the directory is gone.
    pub fn save(&self, state: &State) -> Result<()> {
        write_json(&self.root.join("lab.json"), state)
    }

    /// Manifests of a lab that has been built in code.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Manifests that agents get and the lab does not follow.
    pub fn burden(&self) -> PathBuf {
        self.root.join("burden")
    }

    /// Manifests of what the lab assigned.
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    /// Where the lab's bpffs is mounted.
    pub fn bpf(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// A node's part of the bpffs (`--bpffs`).
    pub fn bpf_of(&self, node: &str) -> PathBuf {
        self.bpf().join(without_dots(node))
    }

    /// Where the nodes' directories are, in memory.
    fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// A node's directory.
    pub fn node(&self, node: &str) -> PathBuf {
        self.nodes().join(node)
    }

    /// A node's directory for its agent (`--state-dir`).
    pub fn agent_state(&self, node: &str) -> PathBuf {
        self.node(node).join("state")
    }

    /// What the agent of a node wrote to its standard output and error.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.node(node).join("agent.log")
    }

    /// Who the agent of a node is.
    pub fn agent_file(&self, node: &str) -> PathBuf {
        self.node(node).join("agent.json")
    }

    /// All agents that were started.
    pub fn agents(&self) -> Vec<Agent> {
        let nodes = fs::read_dir(self.nodes()).into_iter().flatten().flatten();
        nodes.filter_map(|node| read_json(&node.path().join("agent.json")).ok()).collect()
    }

    fn show(&self) -> std::path::Display<'_> {
        self.root.display()
    }
}

/// The names of all labs, in order.
///
/// # Errors
/// The directory is there but cannot be read.
pub fn list() -> Result<Vec<LabName>> {
    let entries = match fs::read_dir(RUN) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("listing {RUN}"))?,
    };
    let names = entries.flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()));
    let mut names: Vec<LabName> = names.collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads a value from a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understanding {}", path.display()))
}

/// Writes a value to a JSON file, whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).with_context(|| format!("writing {}", path.display()))?;
    replace_file(path, &text)
}

/// Writes a file, whole or not at all: whoever watches it never reads half of it.
pub(crate) fn replace_file(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("renaming {} to {}", new.display(), path.display()))
}
