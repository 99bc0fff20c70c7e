//! `setup`: what a machine must have to build, run and test Margay, checked and, where it lacks, installed.
//!
//! In: a list of needs. Out: nothing where all is there (which takes milliseconds); otherwise each thing that was
//! missing is named, installed, and reported. It never changes what is already installed and good.

pub mod deny;
pub mod linker;
mod musl;
pub mod packages;
pub mod root;
pub mod toolchain;

use crate::{
    kubernetes::{Busybox, Part, Programs},
    run::say,
};
use anyhow::{Context, Result};
use std::process::ExitCode;

/// Check what building, running and testing Margay needs, and install what is missing
///
/// The Rust toolchain of rust-toolchain.toml with rust-src, rustfmt and clippy (by rustup); bpf-linker, linked to that
/// compiler's own LLVM (by `cargo install`, into ~/.cache/margay/tools); bpftool, iproute2, nftables, qemu for `vm-test`, and
/// musl-gcc for `image` (by apt-get on Debian and Ubuntu; elsewhere it prints what to install), and the Rust target
/// for static programs. The other commands do the same for what they need, so this one is only for doing it ahead of time.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is there and what is missing; exit code 1 if anything is missing
    #[arg(long)]
    check: bool,
}

/// What a command is going to do, and hence what has to be installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Compile the workspace and the eBPF object.
    Build,
    /// Run the lab: namespaces, programs, dumps of maps.
    Lab,
    /// Build the container image.
    Image,
    /// Boot other kernels.
    Vm,
    /// Check dependencies.
    Deny,
    /// Run a Kubernetes API server.
    Api,
    /// Run a Kubernetes cluster.
    Kubernetes,
}

const EVERYTHING: [Need; 6] = [Need::Build, Need::Lab, Need::Image, Need::Vm, Need::Api, Need::Kubernetes];

/// One thing that has to be there.
pub trait Prerequisite {
    /// What it is called in messages.
    fn name(&self) -> String;
    /// Looks whether it is there, quickly, without changing anything.
    fn check(&self) -> Result<State>;
    /// Brings it; called only when `check` found it missing. Returns what was done.
    fn install(&self) -> Result<String>;
}

/// What a check found.
pub enum State {
    /// Usable; where or which one.
    Present(String),
    /// Not there, or not usable; why.
    Missing(String),
}

/// Runs `cargo xtask setup`.
pub fn main(args: &Args) -> Result<ExitCode> {
    let mut missing = 0;
    for prerequisite in prerequisites(&EVERYTHING) {
        let name = prerequisite.name();
        match prerequisite.check().with_context(|| format!("checking {name}"))? {
            State::Present(which) => println!("ok       {name}: {which}"),
            State::Missing(why) if args.check => {
                println!("missing  {name}: {why}");
                missing += 1;
            }
            State::Missing(why) => install(&*prerequisite, &why)?,
        }
    }
    if missing > 0 {
        println!("{missing} missing; `cargo xtask setup` installs what it can");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that everything for `needs` is there; silent when it is.
pub fn ensure(needs: &[Need]) -> Result<()> {
    for prerequisite in prerequisites(needs) {
        let checked = prerequisite.check().with_context(|| format!("checking {}", prerequisite.name()))?;
        if let State::Missing(why) = checked {
            install(&*prerequisite, &why)?;
        }
    }
    Ok(())
}

fn install(prerequisite: &dyn Prerequisite, why: &str) -> Result<()> {
    let name = prerequisite.name();
    say(format!("setup: {name} is missing ({why}); installing it"));
    let done = prerequisite.install().with_context(|| format!("installing {name}"))?;
    if let State::Missing(still) = prerequisite.check()? {
        anyhow::bail!("installed {name} ({done}), but it is still not usable: {still}");
    }
    say(format!("setup: {done}"));
    Ok(())
}

/// In the order in which they build on each other.
fn prerequisites(needs: &[Need]) -> Vec<Box<dyn Prerequisite>> {
    let mut list: Vec<Box<dyn Prerequisite>> = vec![Box::new(packages::Packages::of(needs))];
    if needs.contains(&Need::Build) {
        list.push(Box::new(toolchain::Toolchain));
        list.push(Box::new(linker::Linker));
    }
    if needs.iter().any(|need| matches!(need, Need::Image | Need::Kubernetes)) {
        list.push(Box::new(musl::Musl));
    }
    if needs.contains(&Need::Deny) {
        list.push(Box::new(deny::Deny));
    }
    if needs.contains(&Need::Kubernetes) {
        list.push(Box::new(Programs(Part::Nodes)));
        list.push(Box::new(Busybox));
    } else if needs.contains(&Need::Api) {
        list.push(Box::new(Programs(Part::Api)));
    }
    list
}
