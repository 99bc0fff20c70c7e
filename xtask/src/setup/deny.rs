//! cargo-deny, which checks what comes in through dependencies against deny.toml.
//!
//! In: the cache and `PATH`. Out: its path. Any version on `PATH` will do; otherwise a pinned one is built.

use super::{Prerequisite, State, toolchain};
use crate::{
    paths,
    run::{cargo, run, say},
};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Built where `PATH` has none.
const VERSION: &str = "0.20.2";

/// The prerequisite.
pub struct Deny;

impl Prerequisite for Deny {
    fn name(&self) -> String {
        "cargo-deny".into()
    }

    fn check(&self) -> Result<State> {
        Ok(match find()? {
            Some(file) => State::Present(file.display().to_string()),
            None => State::Missing("none in the cache or on PATH".into()),
        })
    }

    fn install(&self) -> Result<String> {
        let dir = dir()?;
        say(format!("setup: building cargo-deny {VERSION} (one to three minutes)"));
        // Without optimisation: it builds in a third of the time, and checks a few hundred crates all the same at once.
        let mut install = cargo();
        install.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--root"]).arg(&dir);
        install.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        run(&mut install, "building cargo-deny")?;
        Ok(format!("built cargo-deny {VERSION} into {}", dir.display()))
    }
}

/// The program; `setup` has made sure that there is one.
pub fn path() -> Result<PathBuf> {
    find()?.context("there is no cargo-deny: run `cargo xtask lint --dependencies`")
}

fn find() -> Result<Option<PathBuf>> {
    let own = dir()?.join("bin/cargo-deny");
    Ok(if own.exists() { Some(own) } else { paths::executable("cargo-deny") })
}

/// Named after the compiler as well, so that a new one builds it again.
fn dir() -> Result<PathBuf> {
    let release = toolchain::compiler()?.release;
    Ok(paths::cache()?.join(format!("tools/cargo-deny-{VERSION}-rustc-{release}")))
}
