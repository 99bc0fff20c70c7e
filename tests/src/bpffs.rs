//! A bpffs for one test or one command. In: a name. Out: a mounted directory, below which everything that is pinned ends with it. Never:
//! the one that agents use.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted bpffs, unmounted and removed when this is dropped.
#[derive(Debug)]
pub struct Bpffs {
    dir: PathBuf,
}

// === impl Bpffs ===

impl Bpffs {
    /// Mounts one in the directory for temporary files; this process has one of each name.
    ///
    /// # Errors
    /// Not root, or the kernel has no bpffs.
    pub fn mount(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("margay-{name}-{}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let data: Option<&str> = None;
        mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), data)
            .with_context(|| format!("mounting a bpffs on {}: are you root?", dir.display()))?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let gone = umount2(&self.dir, MntFlags::MNT_DETACH).map_err(anyhow::Error::from);
        if let Err(error) = gone.and_then(|()| Ok(fs::remove_dir(&self.dir)?)) {
            eprintln!("removing the bpffs {}: {error:#}", self.dir.display());
        }
    }
}
