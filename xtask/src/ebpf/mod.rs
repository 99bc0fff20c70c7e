//! `build-ebpf`: compiles `datapath-ebpf/` into the one object that every node loads.
//!
//! In: the crate, the compiler, bpf-linker. Out: `<target>/bpf/margay-datapath`, written only when its bytes change
//! (the loader embeds that file, so an unchanged one must not make cargo build the loader again), and a table of what
//! is in it. It never loads anything into a kernel.

mod object;

use crate::{
    paths,
    run::{cargo, run, say},
    setup::{self, Need, linker, toolchain},
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Build the eBPF object and print each program's size
///
/// The object is <target>/bpf/margay-datapath. Building the `margay` binary embeds it; the environment variable
/// MARGAY_EBPF_OBJECT names another object to embed.
#[derive(clap::Args)]
pub struct Args {
    /// How to print what is in the object
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// Aligned columns
    Table,
    /// One JSON object
    Json,
}

/// The target of the object. `bpfel`: every machine that we support is little-endian.
const TARGET: &str = "bpfel-unknown-none";

/// Below the target directory.
const BUILD_DIR: &str = "bpf-build";

/// Debug info must be asked for here, not in a profile: a profile alone gives func_info that kernels reject. `v3` has
/// 32-bit registers and jumps (Linux 5.1), below the oldest kernel that we support. Headers lie in packets as they like, and every
/// machine that we support reads a word from anywhere: without saying so, each address is read byte by byte. The linker is told,
/// because it generates the code.
const RUSTFLAGS: [&str; 8] = [
    "-C",
    "debuginfo=2",
    "-C",
    "link-arg=--btf",
    "-C",
    "target-cpu=v3",
    "-C",
    "link-arg=--cpu-features=+allows-misaligned-mem-access",
];

/// Runs `cargo xtask build-ebpf`.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let file = build()?;
    let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let contents = object::Contents::parse(&bytes).with_context(|| format!("parsing {}", file.display()))?;
    match args.output {
        Output::Table => print!("{}: {} bytes\n\n{contents}", file.display(), bytes.len()),
        Output::Json => println!("{:#}", contents.json(&file, bytes.len())),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the object and returns its path. The prerequisites of `Need::Build` must be there.
pub fn build() -> Result<PathBuf> {
    let started = Instant::now();
    let target = paths::target()?;
    run(&mut cargo_for_ebpf("build")?, "building the eBPF object")?;
    let built = target.join(BUILD_DIR).join(TARGET).join("release/margay-datapath");
    let object = target.join("bpf/margay-datapath");
    let news = if copy_if_changed(&built, &object)? { "new" } else { "unchanged" };
    say(format!("eBPF object {news} ({:.1} s)", started.elapsed().as_secs_f32()));
    Ok(object)
}

/// The cargo command (`build`, `clippy`) for the object, in a target directory of its own: its profile and flags differ
/// from the host's.
pub fn cargo_for_ebpf(verb: &str) -> Result<std::process::Command> {
    let mut cargo = cargo();
    cargo.args([verb, "--package", "margay-datapath-ebpf", "--bin", "margay-datapath", "--release"]);
    cargo.args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"]).arg(paths::target()?.join(BUILD_DIR));
    // -Z on a stable compiler; `-Z build-std` compiles core for a target that rustup has none for.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags()?);
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker::path()?);
    // bpf-linker optimises the whole program once, from bitcode with all its debug info.
    let profile = [("LTO", "off"), ("STRIP", "none"), ("DEBUG", "2"), ("CODEGEN_UNITS", "1"), ("PANIC", "abort")];
    for (key, value) in profile {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    Ok(cargo)
}

/// All flags, as `CARGO_ENCODED_RUSTFLAGS` wants them. Debug info names files below the repository, cargo's home and the
/// toolchain, not where these are on this machine: so the same source gives the same object everywhere.
fn rustflags() -> Result<String> {
    let mut flags: Vec<String> = RUSTFLAGS.map(str::to_owned).to_vec();
    let places =
        [(paths::root().to_owned(), "margay"), (paths::cargo_home()?, "cargo"), (toolchain::sysroot()?, "rust")];
    flags.extend(places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    Ok(flags.join("\u{1f}"))
}

/// Copies `from` to `to` unless `to` already has the same bytes; whether it did.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    // Beside it and then renamed: a build that reads it at this moment sees the old or the new, never half.
    let beside = to.with_extension("new");
    fs::write(&beside, new).with_context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, to).with_context(|| format!("renaming {} to {}", beside.display(), to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let dir = std::env::temp_dir().join(format!("margay-xtask-copy-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("deeper/to"));
        fs::write(&from, "one").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert!(!copy_if_changed(&from, &to).unwrap());
        fs::write(&from, "two").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
