//! bpf-linker, linked to the compiler's own LLVM: it reads the bitcode that this compiler writes.
//!
//! In: the compiler, the cache, `PATH`. Out: the path of a linker that works with this compiler. A linker that was
//! built for another LLVM fails late and obscurely, so one found on `PATH` has to link a probe before it is taken.

use super::{
    Prerequisite, State,
    toolchain::{self, Compiler},
};
use crate::{
    paths,
    run::{cargo, command, output, run, say, succeeds},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Pinned: the debug info that bpf-linker writes has changed for the worse between its releases before.
const VERSION: &str = "0.13.0";

/// The LLVM of `VERSION`'s default features; other majors are chosen by a feature.
const DEFAULT_LLVM: u32 = 23;

/// The prerequisite.
pub struct Linker;

impl Prerequisite for Linker {
    fn name(&self) -> String {
        format!("bpf-linker {VERSION}")
    }

    fn check(&self) -> Result<State> {
        Ok(match find()? {
            Some(linker) => State::Present(linker.display().to_string()),
            None => State::Missing("none that fits this compiler in the cache or on PATH".into()),
        })
    }

    fn install(&self) -> Result<String> {
        let compiler = toolchain::compiler()?;
        let dir = dir(&compiler)?;
        link_llvm(&dir)?;
        say(format!("setup: building bpf-linker {VERSION} for rustc {} (one to three minutes)", compiler.release));
        let mut install = cargo();
        install.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--root"]).arg(&dir);
        if compiler.llvm_major != DEFAULT_LLVM {
            install.args(["--no-default-features", "--features", &format!("llvm-{}", compiler.llvm_major)]);
        }
        install.env("LLVM_PREFIX", dir.join("llvm")).env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        run(&mut install, "building bpf-linker")?;
        Ok(format!("built bpf-linker {VERSION} into {}", dir.display()))
    }
}

/// The linker to use; `setup` has made sure that there is one.
pub fn path() -> Result<PathBuf> {
    find()?.context("no bpf-linker fits this compiler: run `cargo xtask setup`")
}

/// `MARGAY_BPF_LINKER` as it is, then our own in the cache, then one on `PATH` that works with this compiler.
fn find() -> Result<Option<PathBuf>> {
    if let Some(given) = std::env::var_os("MARGAY_BPF_LINKER") {
        return Ok(Some(PathBuf::from(given)));
    }
    let compiler = toolchain::compiler()?;
    let dir = dir(&compiler)?;
    let own = dir.join("bin/bpf-linker");
    if own.exists() {
        if is_version(&own) {
            return Ok(Some(own));
        }
        // The toolchain may have moved or come back: its library is found through these links.
        link_llvm(&dir)?;
        if is_version(&own) {
            return Ok(Some(own));
        }
    }
    let on_path = paths::executable("bpf-linker").filter(|linker| is_version(linker));
    Ok(on_path.filter(|linker| links_probe(linker).unwrap_or(false)))
}

/// One directory for each pair of linker and compiler: `bin/` from `cargo install`, `llvm/` for its library path.
fn dir(compiler: &Compiler) -> Result<PathBuf> {
    Ok(paths::cache()?.join(format!("tools/bpf-linker-{VERSION}-rustc-{}", compiler.release)))
}

fn is_version(linker: &Path) -> bool {
    output(command(linker).arg("--version"), "asking bpf-linker for its version")
        .is_ok_and(|said| said.trim() == format!("bpf-linker {VERSION}"))
}

/// Makes `llvm/lib` and `llvm/lib64` look like an LLVM installation that holds only the compiler's shared library:
/// so no LLVM package is needed, and linker and compiler cannot drift apart.
fn link_llvm(dir: &Path) -> Result<()> {
    let library = llvm_library()?;
    let name = library.file_name().context("the LLVM library has no file name")?;
    for lib in ["llvm/lib", "llvm/lib64"] {
        let lib = dir.join(lib);
        fs::create_dir_all(&lib).with_context(|| format!("creating {}", lib.display()))?;
        for link in [lib.join("libLLVM.so"), lib.join(name)] {
            let _ = fs::remove_file(&link);
            symlink(&library, &link).with_context(|| format!("linking {} to {}", link.display(), library.display()))?;
        }
    }
    Ok(())
}

/// The compiler's `libLLVM.so.23.1-rust-1.99.1-stable`.
fn llvm_library() -> Result<PathBuf> {
    let lib = toolchain::sysroot()?.join("lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("looking for libLLVM in {}", lib.display()))?;
    let found = entries.flatten().map(|entry| entry.path()).find(|file| {
        file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libLLVM.so."))
    });
    let Some(found) = found else {
        bail!(
            "{} has no libLLVM.so: this rustc brings LLVM in another way. Use a toolchain of rustup, or put a \
             bpf-linker {VERSION} that is linked to the same LLVM on PATH, or name one in MARGAY_BPF_LINKER",
            lib.display()
        );
    };
    Ok(found)
}

/// Whether a linker understands this compiler's bitcode: it links the smallest possible program.
fn links_probe(linker: &Path) -> Result<bool> {
    let dir = paths::target()?.join("bpf-probe");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let source = dir.join("probe.rs");
    fs::write(&source, include_str!("probe.rs.txt")).with_context(|| format!("writing {}", source.display()))?;
    let mut rustc = command("rustc");
    rustc.env("RUSTC_BOOTSTRAP", "1").args(["--edition", "2024", "--target", "bpfel-unknown-none"]);
    rustc.args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "debuginfo=2", "-C", "link-arg=--btf", "-C"]);
    rustc.arg(format!("linker={}", linker.display())).arg(&source).arg("-o").arg(dir.join("probe.o"));
    Ok(succeeds(&mut rustc))
}
