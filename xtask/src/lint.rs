//! `lint`: what reviewers should not have to look for.
//!
//! In: the workspace. Out: formatting, clippy for this machine and for the kernel, and (if asked for) licences, sources and
//! known vulnerabilities of all dependencies. Every step runs, whatever the others say; it changes no file.

use crate::{
    ebpf,
    run::{cargo, command, run, say, succeeds},
    setup::{self, Need, deny},
};
use anyhow::Result;
use std::process::{Command, ExitCode};

/// Check formatting, run clippy for this machine and for the eBPF target, and optionally check dependencies
#[derive(clap::Args)]
pub struct Args {
    /// Also check the licences, sources and known vulnerabilities of all dependencies against deny.toml
    #[arg(long)]
    dependencies: bool,
}

/// The database of known vulnerabilities.
const ADVISORIES: &str = "https://github.com/rustsec/advisory-db";

/// Runs `cargo xtask lint`.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(if args.dependencies { &[Need::Build, Need::Deny] } else { &[Need::Build] })?;
    // Userspace embeds the object, so clippy needs it as the compiler does.
    ebpf::build()?;
    let mut steps = vec![("formatting", formatting()), ("clippy", clippy()), ("clippy for eBPF", clippy_ebpf()?)];
    if args.dependencies {
        steps.push(("licences, bans, sources", deny(&["bans", "licenses", "sources"])?));
        steps.extend(advisories()?.map(|check| ("known vulnerabilities", check)));
    }
    let mut failed = Vec::new();
    for (name, mut step) in steps {
        say(format!("lint: {name}"));
        if let Err(error) = run(&mut step, name) {
            say(format!("{error:#}"));
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: all well");
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn formatting() -> Command {
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    fmt
}

fn clippy() -> Command {
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
    clippy
}

/// With the flags of the real build: other code is compiled for that target than for this machine.
fn clippy_ebpf() -> Result<Command> {
    let mut clippy = ebpf::cargo_for_ebpf("clippy")?;
    clippy.args(["--", "--deny", "warnings"]);
    Ok(clippy)
}

fn deny(checks: &[&str]) -> Result<Command> {
    let mut deny = command(deny::path()?);
    deny.args(["--all-features", "check", "--hide-inclusion-graph"]).args(checks);
    Ok(deny)
}

/// The check against known vulnerabilities, unless their database cannot be reached from here: then it says so.
fn advisories() -> Result<Option<Command>> {
    let mut reach = command("git");
    reach.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20", "ls-remote", ADVISORIES, "HEAD"]);
    if succeeds(reach.env("GIT_TERMINAL_PROMPT", "0")) {
        return deny(&["advisories"]).map(Some);
    }
    say(format!("lint: NOTICE known vulnerabilities are not checked: {ADVISORIES} cannot be reached"));
    Ok(None)
}
