//! The directory of pins: where each map and link is, how it is checked, and how a new layout takes over from an old.
//!
//! ```text
//! <bpffs>/<layout>/endpoints …          the maps
//! <bpffs>/<layout>/spec/endpoints-1a2b3c4d   a directory: the hash of that map's own layout
//! <bpffs>/<layout>/links/cali1a2b…-from_workload   the TCX links
//! ```
//!
//! bpffs holds pins and directories but no files, so the hash of each map's layout is a directory's name. A later
//! build whose layout differs as a whole still finds the maps that have not changed, live data and all.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use margay_maps::{
    LAYOUT, MAPS, MapSpec,
    user::{handles, sys},
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::{info, warn};

/// Where distributions mount the bpffs, and where Margay's directory is unless told otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/margay";
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// The directory of pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// There is no bpffs.
    #[error("{path} is on no bpffs: mount one (mount -t bpf bpf {mountpoint}), or name another place with --bpffs")]
    NoBpffs {
        /// The directory asked for.
        path: PathBuf,
        /// Where to mount.
        mountpoint: PathBuf,
    },
    /// A pin could not be made, read or removed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.to_owned();
    move |source| PinsError::Io { doing, path, source }
}

/// The directory of this build's layout.
#[derive(Clone, Debug)]
pub struct PinDir {
    root: PathBuf,
    dir: PathBuf,
}

// === impl PinDir ===

impl PinDir {
    /// Names the directory below `root`, without touching it.
    pub fn of(root: &Path) -> Self {
        Self { root: root.to_owned(), dir: root.join(layout_name()) }
    }

    /// Makes the directory and sees to it that each map pinned in it is the one that this build expects: a wrong one
    /// goes, a missing one is taken over from another layout if it is the same there.
    ///
    /// # Errors
    /// `root` is on no bpffs, or may not be written.
    pub fn prepare(root: &Path) -> Result<Self, PinsError> {
        mounted(root)?;
        let pins = Self::of(root);
        for dir in [pins.links(), pins.spec_dir()] {
            fs::create_dir_all(&dir).map_err(at("making the directory", &dir))?;
        }
        for spec in &MAPS {
            pins.prepare_map(spec)?;
        }
        Ok(pins)
    }

    /// The name of this build's layout.
    pub fn layout(&self) -> String {
        layout_name()
    }

    /// Where everything of this layout is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a map is pinned.
    pub fn map(&self, spec: &MapSpec) -> PathBuf {
        self.dir.join(spec.name)
    }

    /// Where the links are pinned.
    pub fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// The directories of other layouts, left by other builds.
    ///
    /// # Errors
    /// The root cannot be listed.
    pub fn others(&self) -> Result<Vec<PathBuf>, PinsError> {
        let entries = fs::read_dir(&self.root).map_err(at("listing", &self.root))?;
        let dirs = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir() && *p != self.dir);
        Ok(dirs.collect())
    }

    /// Removes the directories of other layouts. Call it once nothing attached uses them.
    ///
    /// # Errors
    /// One could not be removed.
    pub fn remove_others(&self) -> Result<(), PinsError> {
        for dir in self.others()? {
            info!(dir = %dir.display(), "removing another build's pins");
            remove_tree(&dir)?;
        }
        Ok(())
    }

    fn spec_dir(&self) -> PathBuf {
        self.dir.join("spec")
    }

    fn prepare_map(&self, spec: &MapSpec) -> Result<(), PinsError> {
        let path = self.map(spec);
        let tag = spec_tag(spec);
        if path.exists() && !is_right(&path, spec) {
            warn!(pin = %path.display(), "is not the map that this build expects: making it anew");
            fs::remove_file(&path).map_err(at("removing", &path))?;
        }
        if !path.exists() {
            self.adopt(spec, &tag)?;
        }
        let tag = self.spec_dir().join(tag);
        fs::create_dir_all(&tag).map_err(at("making the directory", &tag))
    }

    /// Pins another layout's map here, if its own layout is the same.
    fn adopt(&self, spec: &MapSpec, tag: &str) -> Result<(), PinsError> {
        for other in self.others()? {
            let pin = other.join(spec.name);
            if !other.join("spec").join(tag).is_dir() || !is_right(&pin, spec) {
                continue;
            }
            let path = self.map(spec);
            info!(map = spec.name, from = %other.display(), "taking over a map that has not changed");
            let fd = sys::open_pin(&pin).map_err(at("opening", &pin))?;
            return sys::pin(fd.as_fd(), &path).map_err(at("pinning", &path));
        }
        Ok(())
    }
}

/// The name of this build's directory.
pub fn layout_name() -> String {
    format!("layout-{LAYOUT:08x}")
}

fn spec_tag(spec: &MapSpec) -> String {
    format!("{}-{:08x}", spec.name, spec.layout())
}

fn is_right(pin: &Path, spec: &MapSpec) -> bool {
    sys::open_pin(pin).is_ok_and(|fd| handles::check(&fd, spec).is_ok())
}

/// Removes a directory of pins and all below it. Removing a link's pin detaches its program.
///
/// # Errors
/// One pin could not be removed.
pub fn remove_tree(dir: &Path) -> Result<(), PinsError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(at("removing", dir)),
    }
}

/// Sees to it that `root` is (or will be) on a bpffs; the system's own is mounted if it is not.
fn mounted(root: &Path) -> Result<(), PinsError> {
    let existing = root.ancestors().find(|p| p.exists()).unwrap_or(root);
    if is_bpffs(existing) {
        return Ok(());
    }
    let system = Path::new(SYSTEM_BPFFS);
    if root.starts_with(system) && system.is_dir() {
        info!("mounting a bpffs on {SYSTEM_BPFFS}");
        let none: Option<&str> = None;
        if mount(Some("bpf"), system, Some("bpf"), MsFlags::empty(), none).is_ok() {
            return Ok(());
        }
    }
    let mountpoint = if root.starts_with(system) { system } else { root };
    Err(PinsError::NoBpffs { path: root.to_owned(), mountpoint: mountpoint.to_owned() })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
