//! Settings of the whole machine that kubelets change. In: nothing. Out: what they were, kept in a file while any cluster is
//! up, and restored after the last one. Never: a setting of a namespace; those go with it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    names::{LabName, RUN},
    rundir::{read_json, write_json},
};

/// What the kubelet sets (pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables).
pub(super) const CHANGED: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// What the settings were, and for whose sake that is remembered.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    clusters: Vec<LabName>,
    values: BTreeMap<String, String>,
}

/// Where they are kept. No name of a lab has a dot.
fn file() -> PathBuf {
    Path::new(RUN).join("sysctls.json")
}

/// Remembers the settings before the first kubelet of a cluster starts.
///
/// # Errors
/// They cannot be written down.
pub(super) fn save(cluster: &LabName) -> Result<()> {
    let _lock = lock()?;
    let mut saved: Saved = load()?.unwrap_or_default();
    if saved.clusters.is_empty() {
        saved.values = CHANGED.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect();
    }
    if !saved.clusters.contains(cluster) {
        saved.clusters.push(cluster.clone());
    }
    write_json(&file(), &saved)
}

/// Restores them after the last kubelet of a cluster has ended, if no other cluster is up.
///
/// # Errors
/// A setting cannot be written.
pub(super) fn restore(cluster: &LabName) -> Result<()> {
    let _lock = lock()?;
    let Some(mut saved) = load()? else { return Ok(()) };
    saved.clusters.retain(|c| c != cluster);
    if !saved.clusters.is_empty() {
        return write_json(&file(), &saved);
    }
    for (name, value) in &saved.values {
        if read(name).as_ref() != Some(value) {
            let path = Path::new("/proc/sys").join(name);
            fs::write(&path, value).with_context(|| format!("restoring {} to {value}", path.display()))?;
        }
    }
    fs::remove_file(file()).with_context(|| format!("deleting {}", file().display()))
}

fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim_end().to_owned())
}

fn load() -> Result<Option<Saved>> {
    match fs::exists(file()) {
        Ok(true) => read_json(&file()).map(Some),
        _ => Ok(None),
    }
}

/// Clusters come and go at once in tests. The lock is on the directory, so that no file is left.
fn lock() -> Result<File> {
    match fs::create_dir_all(RUN) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making {RUN}"));
        }
        _ => {}
    }
    let lock = File::open(RUN).with_context(|| format!("opening {RUN}"))?;
    lock.lock().with_context(|| format!("locking {RUN}"))?;
    Ok(lock)
}
