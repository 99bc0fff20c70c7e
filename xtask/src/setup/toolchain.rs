//! The Rust toolchain that rust-toolchain.toml pins, with rust-src, rustfmt and clippy.
//!
//! In: rust-toolchain.toml and the compiler that runs in the repository. Out: its version, sysroot and LLVM.
//! Without rustup nothing is installed: the message says which components to bring.

use super::{Prerequisite, State};
use crate::{
    paths,
    run::{command, output, run},
};
use anyhow::{Context, Result, bail};
use std::{fs, path::PathBuf};

/// The prerequisite.
pub struct Toolchain;

/// The compiler that builds in this repository.
#[derive(Debug, PartialEq, Eq)]
pub struct Compiler {
    /// `1.99.1`
    pub release: String,
    /// `23`: bpf-linker must use the same.
    pub llvm_major: u32,
}

/// Components beside the compiler: what they are for is their file, relative to the sysroot.
const COMPONENTS: [(&str, &str); 3] = [
    ("rust-src", "lib/rustlib/src/rust/library/core/src/lib.rs"),
    ("rustfmt", "bin/rustfmt"),
    ("clippy", "bin/cargo-clippy"),
];

impl Prerequisite for Toolchain {
    fn name(&self) -> String {
        "Rust toolchain".into()
    }

    fn check(&self) -> Result<State> {
        let channel = channel()?;
        let Ok(sysroot) = sysroot() else {
            return Ok(State::Missing(format!("rustc {channel} does not run")));
        };
        let absent: Vec<&str> =
            COMPONENTS.iter().filter(|(_, file)| !sysroot.join(file).exists()).map(|(name, _)| *name).collect();
        if absent.is_empty() {
            return Ok(State::Present(format!("{channel} with rust-src, rustfmt and clippy")));
        }
        Ok(State::Missing(format!("{} has no {}", sysroot.display(), absent.join(", "))))
    }

    fn install(&self) -> Result<String> {
        let channel = channel()?;
        let Some(rustup) = paths::executable("rustup") else {
            bail!(
                "there is no rustup: install it (https://rustup.rs), or bring rust-src, rustfmt and clippy of exactly \
                 rustc {channel} from where your Rust came"
            );
        };
        let mut install = command(rustup);
        install.args(["toolchain", "install", &channel, "--profile", "minimal", "--no-self-update"]);
        for (component, _) in COMPONENTS {
            install.args(["--component", component]);
        }
        run(&mut install, "installing the Rust toolchain")?;
        Ok(format!("installed the Rust toolchain {channel} with rustup"))
    }
}

/// The version that rust-toolchain.toml asks for.
fn channel() -> Result<String> {
    let file = paths::root().join("rust-toolchain.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    parse_channel(&text).with_context(|| format!("{} has no line `channel = \"…\"`", file.display()))
}

fn parse_channel(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("channel")?.trim_start().strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// The directory of the compiler that builds here.
pub fn sysroot() -> Result<PathBuf> {
    let path = output(command("rustc").args(["--print", "sysroot"]), "asking rustc where it is installed")?;
    Ok(PathBuf::from(path.trim()))
}

/// Version and LLVM of the compiler that builds here.
pub fn compiler() -> Result<Compiler> {
    let text = output(command("rustc").arg("-vV"), "asking rustc for its version")?;
    parse_compiler(&text).with_context(|| format!("`rustc -vV` names no release or no LLVM version:\n{text}"))
}

fn parse_compiler(text: &str) -> Option<Compiler> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let llvm_major = field("LLVM version")?.split('.').next()?.parse().ok()?;
    Some(Compiler { release: field("release")?.to_owned(), llvm_major })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_read_from_its_line() {
        let text = "# channel = \"old\"\n[toolchain]\nchannel = \"1.99.1\"\nprofile = \"minimal\"\n";
        assert_eq!(parse_channel(text).as_deref(), Some("1.99.1"));
        assert_eq!(parse_channel("[toolchain]\n"), None);
    }

    #[test]
    fn the_compiler_names_its_llvm() {
        let text = "rustc 1.99.1 (58cf8f9c3 2026-10-13)\nbinary: rustc\nrelease: 1.99.1\nLLVM version: 23.1.1\n";
        assert_eq!(parse_compiler(text), Some(Compiler { release: "1.99.1".into(), llvm_major: 23 }));
        assert_eq!(parse_compiler("rustc 1.99.1\nrelease: 1.99.1\n"), None);
    }
}
