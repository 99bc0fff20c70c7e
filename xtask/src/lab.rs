//! `demo`, `lab` and `bench`: build everything, then become `margay-lab`, which does the work.
//!
//! In: arguments, which are passed on untouched. Out: the exit code of `margay-lab`, because this process is replaced
//! by it (so Ctrl-C and the terminal are its own).

use crate::{
    ebpf, kubernetes, paths,
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
        if subcommand == "bench" {
            needs.push(Need::Bench);
        }
        if args.iter().any(|arg| arg == "--kubernetes") {
            needs.push(Need::Kubernetes);
        }
    }
    setup::ensure(&needs)?;
    let lab = build()?;
    if needs.contains(&Need::Kubernetes) {
        kubernetes::build_images()?;
    }
    let mut command = if help { std::process::Command::new(&lab) } else { root::command(&lab, &[])? };
    command.arg(subcommand).args(args);
    Err(Error::new(command.exec()).context(format!("starting {}", lab.display())))
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
