//! Removing every trace of Margay from a node: programs, maps, pins, the overlay device, routes, settings, files.

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Result, bail};
use tracing::warn;

use crate::{
    datapath::{
        attach,
        pins::{PinDir, remove_tree},
    },
    host::{
        Host,
        nftables::{self, NftError, TABLE},
    },
    names::WORKLOAD_PREFIX,
    state::StateDir,
};

/// How long to wait for an agent that is about to be gone.
const PATIENCE: Duration = Duration::from_millis(500);
/// There while the kernel has nftables loaded.
const NF_TABLES: &str = "/sys/module/nf_tables";

/// Removes everything, and says what there was. Pods stay, but reach nobody any more.
///
/// # Errors
/// An agent is still running, or something could not be removed; what is left can be removed by trying again.
pub async fn run(bpffs: &Path, state: &StateDir, proc_sys: &Path) -> Result<Vec<String>> {
    if state.keeps_running(PATIENCE) {
        bail!("an agent is running and would put everything back: stop it first");
    }
    let mut removed = Vec::new();
    let host = Host::connect()?;
    let view = host.view(None, &Default::default(), &Default::default()).await?;
    // First: it drops what comes from pods without programs.
    match nftables::remove().await {
        Ok(true) => removed.push(format!("the nftables table {TABLE}")),
        Ok(false) => {}
        Err(NftError::Missing) if !Path::new(NF_TABLES).exists() => {}
        // The agent's image has one, so there may be a table all the same.
        Err(NftError::Missing) => warn!("without nft nobody knows: if there is a table {TABLE}, delete it"),
        Err(error) => return Err(error.into()),
    }
    for (index, interface) in &view.interfaces {
        if attach::detach_all_clsact(*index) {
            removed.push(format!("filters of {}", interface.name));
        }
        if host.remove_empty_clsact(*index).await? {
            removed.push(format!("the empty clsact qdisc of {}", interface.name));
        }
    }
    for layout in layouts(bpffs)? {
        remove_tree(&layout)?;
        removed.push(format!("pins in {}", layout.display()));
    }
    if bpffs.is_dir() && fs::remove_dir(bpffs).is_ok() {
        removed.push(format!("the directory {}", bpffs.display()));
    }
    match host.ensure_routes(&Default::default(), None, &mut Default::default()).await? {
        0 => {}
        routes => removed.push(format!("{routes} routes")),
    }
    if host.remove_overlay().await? {
        removed.push(format!("the device {}", margay_maps::overlay::DEVICE));
    }
    for (name, before) in state.original_sysctls()? {
        // Those of pods' interfaces are the interfaces' own, and say what is right for whatever comes after.
        if name.contains(WORKLOAD_PREFIX) {
            continue;
        }
        match fs::write(proc_sys.join(&name), &before) {
            Ok(()) => removed.push(format!("the setting of {} (it is {before} again)", name.replace('/', "."))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => warn!("setting {name} back to {before}: {e}"),
        }
    }
    state.remove()?;
    Ok(removed)
}

/// The directories of all layouts, this build's and others'.
fn layouts(bpffs: &Path) -> Result<Vec<std::path::PathBuf>> {
    if !bpffs.is_dir() {
        return Ok(Vec::new());
    }
    let own = PinDir::of(bpffs);
    let mut dirs = own.others()?;
    if own.dir().is_dir() {
        dirs.push(own.dir().to_owned());
    }
    Ok(dirs)
}
