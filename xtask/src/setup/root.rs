//! Root: whether we are, and how to start the one program that must be.
//!
//! In: a program. Out: a command that runs it as root: itself when we are root, through sudo otherwise. Only what needs
//! root runs as root, so that no file in target/ belongs to it.

use super::packages;
use crate::{kubernetes, paths};
use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
};

/// Variables that must survive sudo, which otherwise starts with an environment of its own.
const KEPT: [&str; 9] = [
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "KUBEBUILDER_ASSETS",
    "NO_COLOR",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "XDG_CACHE_HOME",
];

/// Whether this process has root's user id.
pub fn is_root() -> Result<bool> {
    // The owner of a process's directory in /proc is its effective user.
    let owner = fs::metadata("/proc/self").context("reading /proc/self: is /proc mounted?")?.uid();
    Ok(owner == 0)
}

/// A command that runs `program` as root with the variables that builds and labs look at, a `PATH` with the lab's
/// tools, `variables`, and where the programs of Kubernetes are: root's cache is another.
pub fn command(program: &Path, variables: &[(&str, &OsStr)]) -> Result<Command> {
    let path = packages::search_path();
    let programs = kubernetes::directory()?;
    let common = [("PATH", path.as_os_str()), (kubernetes::DIRECTORY_VARIABLE, programs.as_os_str())];
    let variables = variables.iter().copied().chain(common);
    if is_root()? {
        let mut command = Command::new(program);
        command.envs(variables);
        return Ok(command);
    }
    let Some(sudo) = paths::executable("sudo") else {
        bail!(
            "{} needs root (it makes network namespaces and loads eBPF programs), and there is no sudo here: \
             run the same command as root",
            program.display()
        );
    };
    let mut command = Command::new(sudo);
    command.arg("env").args(kept(env::vars_os()));
    command.args(variables.map(|(name, value)| pair(name.into(), value))).arg(program);
    Ok(command)
}

/// `NAME=value` for every variable that is kept.
fn kept(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<OsString> {
    let wanted =
        |name: &OsString| name.to_str().is_some_and(|name| KEPT.contains(&name) || name.starts_with("MARGAY_"));
    vars.filter(|(name, _)| wanted(name)).map(|(name, value)| pair(name, &value)).collect()
}

fn pair(name: OsString, value: &OsStr) -> OsString {
    let mut pair = name;
    pair.push("=");
    pair.push(value);
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_survives_sudo() {
        let vars = [("RUST_LOG", "info"), ("MARGAY_EBPF_OBJECT", "/x"), ("SECRET", "y")];
        let vars = vars.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        assert_eq!(kept(vars.into_iter()), ["RUST_LOG=info", "MARGAY_EBPF_OBJECT=/x"]);
    }
}
