//! The static binary: one file that runs on any Linux, and in an image with nothing else in it.
//!
//! In: the workspace. Out: `margay` for musl, built for release into that target's own directory. Never: a path of this
//! machine in it, so that two checkouts give the same bytes.

use crate::{
    ebpf, paths,
    run::{cargo, run, say},
};
use anyhow::{Context, Result};
use std::{env, path::PathBuf};

/// The target whose programs need no libraries.
pub const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" };

/// Builds the eBPF object, then the binary around it. Returns the binary.
pub fn static_binary() -> Result<PathBuf> {
    let object = ebpf::build()?;
    say(format!("building margay for {TARGET}"));
    let mut build = cargo();
    build.args(["build", "--release", "--package", "margay", "--bin", "margay", "--target", TARGET]);
    build.env("MARGAY_EBPF_OBJECT", object);
    // ring has C in it, which must find musl's headers.
    build.env(format!("CC_{}", TARGET.replace('-', "_")), "musl-gcc");
    build.env("CARGO_ENCODED_RUSTFLAGS", flags()?);
    run(&mut build, "building the static binary")?;
    Ok(paths::target()?.join(TARGET).join("release/margay"))
}

/// Paths in messages of panics begin at the checkout and at cargo's directory, wherever these are.
fn flags() -> Result<String> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set: set one of them")?)
            .join(".cargo"),
    };
    let remaps = [(cargo_home.as_path(), "/cargo"), (paths::root(), "/margay")];
    let remaps = remaps.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    // At a fixed address: the plugin is started for each pod, and would first correct 35,000 pointers.
    let fixed = "-Crelocation-model=static".to_owned();
    Ok(remaps.into_iter().chain([fixed]).collect::<Vec<_>>().join("\u{1f}"))
}
