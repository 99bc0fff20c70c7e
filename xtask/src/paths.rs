//! Where things are: the repository, cargo's target directory, the cache that all checkouts share.
//!
//! In: the environment and the place of this program's own file. Out: paths. It never creates anything.

use anyhow::{Context, Result};
use std::{
    env,
    path::{Path, PathBuf},
};

/// The repository's top directory.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo's target directory: the one that this program was built in, so that `CARGO_TARGET_DIR` and
/// `build.target-dir` are followed without reading them.
pub fn target() -> Result<PathBuf> {
    let exe = env::current_exe().context("finding this program's own file")?;
    let target = exe.parent().and_then(Path::parent).context("this program's file has no target directory above it")?;
    Ok(target.to_owned())
}

/// What is kept between checkouts: linkers, kernels. `$XDG_CACHE_HOME/margay`, by default `~/.cache/margay`.
pub fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(cache).join("margay"));
    }
    let home = env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set: set one of them")?;
    Ok(PathBuf::from(home).join(".cache/margay"))
}

/// Where cargo keeps the sources of dependencies. `$CARGO_HOME`, by default `~/.cargo`.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set: set one of them")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// The first executable `name` on `PATH`, or in the system directories that an ordinary user's `PATH` leaves out.
pub fn executable(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
