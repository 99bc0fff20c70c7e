//! Finding the programs of a cluster. In: a program's name. Out: its path. Never: a build or a download; those are
//! xtask's (`cargo xtask setup`, or any command that needs a cluster).

#[path = "../../kubernetes/programs.rs"]
mod list;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

pub use list::{ASSETS_VARIABLE, GROUPS, Group, Part, Program};

/// Names the directory of all groups, instead of the one in the cache; xtask sets it for what it starts.
pub const DIRECTORY_VARIABLE: &str = "MARGAY_KUBERNETES";

/// The file of a program: what `KUBEBUILDER_ASSETS` has, for etcd, kube-apiserver and kubectl; otherwise the one in the
/// cache.
///
/// # Errors
/// It has not been built yet.
pub fn path(name: &str) -> Result<PathBuf> {
    let (group, program) = find(name)?;
    if program.part == Part::Api
        && let Some(assets) = env::var_os(ASSETS_VARIABLE).filter(|dir| !dir.is_empty())
        && let file = Path::new(&assets).join(name)
        && file.is_file()
    {
        return Ok(file);
    }
    let file = group.bin(&directory()?).join(name);
    if !file.is_file() {
        bail!("there is no {}: `cargo xtask setup` builds the programs of a Kubernetes cluster, once", file.display());
    }
    Ok(file)
}

/// The directory with the programs of a group.
///
/// # Errors
/// There is no such group, or no home directory to look in.
pub fn bin(group: &str) -> Result<PathBuf> {
    let group = GROUPS.iter().find(|g| g.name == group).with_context(|| format!("there is no group {group}"))?;
    Ok(group.bin(&directory()?))
}

/// The static busybox of the tests' images, which is Debian's.
///
/// # Errors
/// It has not been fetched yet.
pub fn busybox() -> Result<PathBuf> {
    let file = directory()?.join("busybox/bin/busybox");
    if !file.is_file() {
        bail!("there is no {}: `cargo xtask setup` fetches it", file.display());
    }
    Ok(file)
}

/// `PATH` with all built programs in front.
///
/// # Errors
/// There is no home directory to look in.
pub fn search_path() -> Result<OsString> {
    let directory = directory()?;
    let given = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = GROUPS.iter().map(|g| g.bin(&directory)).chain(env::split_paths(&given)).chain(system);
    env::join_paths(dirs).context("building PATH")
}

fn find(name: &str) -> Result<(&'static Group, &'static Program)> {
    let mut all = GROUPS.iter().flat_map(|g| g.programs.iter().map(move |p| (g, p)));
    all.find(|(_, p)| p.name == name).ok_or_else(|| anyhow!("{name} is no program of a Kubernetes cluster"))
}

/// The directory of all groups.
fn directory() -> Result<PathBuf> {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = given(DIRECTORY_VARIABLE) {
        return Ok(directory);
    }
    let cache = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")));
    let cache =
        cache.context("looking for the programs of a Kubernetes cluster: neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("margay/kubernetes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_programs_have_one_name() {
        let names: Vec<_> = GROUPS.iter().flat_map(|g| g.programs).map(|p| p.name).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn groups_stand_by_version() {
        let group = find("kubelet").unwrap().0;
        assert_eq!(group.bin(Path::new("/c")), Path::new("/c").join(format!("kubernetes-{}/bin", group.version)));
        assert!(find("kubeadm").is_err());
    }
}
