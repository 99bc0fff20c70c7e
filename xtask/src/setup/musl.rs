//! The Rust target for static programs.
//!
//! In: the toolchain of rust-toolchain.toml. Out: the standard library for musl, installed by rustup. musl-gcc, for crates with
//! C in them, is among the [`packages`](super::packages).

use super::{Prerequisite, State, toolchain};
use crate::{
    image::TARGET,
    paths,
    run::{command, run},
};
use anyhow::{Result, bail};

/// The prerequisite.
pub struct Musl;

impl Prerequisite for Musl {
    fn name(&self) -> String {
        format!("Rust target {TARGET}")
    }

    fn check(&self) -> Result<State> {
        let library = toolchain::sysroot()?.join("lib/rustlib").join(TARGET).join("lib");
        Ok(if library.is_dir() {
            State::Present(library.display().to_string())
        } else {
            State::Missing(format!("there is no {}", library.display()))
        })
    }

    fn install(&self) -> Result<String> {
        let Some(rustup) = paths::executable("rustup") else {
            bail!("there is no rustup: bring the target {TARGET} from where your Rust came");
        };
        run(command(rustup).args(["target", "add", TARGET]), "installing the target for static programs")?;
        Ok(format!("installed the target {TARGET} with rustup"))
    }
}
