//! `demo`, `lab`, `bench` and `fuzz`: build everything, then become `margay-lab`, which does the work.
//!
//! In: arguments, which are passed on untouched. Out: the exit code of `margay-lab`, because this process is replaced
//! by it (so Ctrl-C and the terminal are its own).

use crate::{
    ebpf, image, kubernetes, paths,
    run::{cargo, run, say},
    setup::{self, Need, root},
};
use anyhow::{Error, Result};
use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

/// Builds, then replaces this process by `margay-lab <subcommand> <args>` as root.
pub fn main(subcommand: &str, args: &[OsString]) -> Result<ExitCode> {
    let help = args.iter().any(|arg| arg == "--help" || arg == "-h");
    let mut needs = vec![Need::Build];
    if !help {
        needs.push(Need::Lab);
        if args.iter().any(|arg| arg == "--kubernetes") {
            needs.push(Need::Kubernetes);
        }
        if needs.contains(&Need::Kubernetes) && installs_margay(args) {
            needs.push(Need::Image);
        }
    }
    setup::ensure(&needs)?;
    let lab = build()?;
    if needs.contains(&Need::Kubernetes) {
        kubernetes::build_images()?;
    }
    let mut variables = Vec::new();
    if needs.contains(&Need::Image) {
        say("building Margay's image");
        variables.push(("MARGAY_IMAGE", image::build()?.into_os_string()));
        variables.push(("MARGAY_DEPLOY", paths::root().join("deploy").into_os_string()));
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
    let mut command = if help { std::process::Command::new(&lab) } else { root::command(&lab, &variables)? };
    command.arg(subcommand).args(args);
    Err(Error::new(command.exec()).context(format!("starting {}", lab.display())))
}

/// Whether the nodes of a Kubernetes cluster are to have Margay, which is what happens if nothing else is said.
fn installs_margay(args: &[OsString]) -> bool {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let after = words.windows(2).find(|pair| pair[0] == "--cni").map(|pair| pair[1].as_ref());
    let chosen = after.or_else(|| words.iter().find_map(|word| word.strip_prefix("--cni=")));
    chosen.is_none_or(|cni| cni == "margay")
}

/// Builds the eBPF object, `margay` and `margay-lab`, and returns the path of the last.
pub fn build() -> Result<PathBuf> {
    ebpf::build()?;
    say("building margay and margay-lab");
    run(
        cargo().args(["build", "--package", "margay", "--package", "margay-tests", "--bins"]),
        "building the binaries",
    )?;
    Ok(paths::target()?.join("debug/margay-lab"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margay_is_installed_unless_another_plugin_is_named() {
        let installs = |line: &str| installs_margay(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(installs("up --kubernetes"));
        assert!(installs("up --kubernetes --cni margay --nodes 3"));
        assert!(!installs("up --kubernetes --cni none"));
        assert!(!installs("up --cni=bridge --kubernetes"));
    }
}
