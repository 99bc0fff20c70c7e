//! The first file system of a kernel under test: our own two programs, their libraries, kernel modules, nothing else.
//!
//! In: the built programs and a kernel's modules. Out: the bytes of an initramfs whose /init is `margay-lab`, which sees
//! that it is process 1 and runs the suite (`tests/src/vm/`). There is no shell in it.

use super::{libraries, modules::Module, newc::Archive};
use crate::run::run;
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the init finds the modules, in files whose names sort in the order of loading.
const MODULES: &str = "modules";

/// Directories that must exist; the init mounts onto some of them.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", MODULES, "proc", "run", "sys", "tmp", "var"];

/// What is the same for every kernel: directories, programs, libraries.
pub fn base(programs: &[PathBuf], scratch: &Path) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    // The kernel opens it for /init's output before anything is mounted.
    archive.device("dev/console", (5, 1));
    let mut libraries_added = BTreeSet::new();
    for program in programs {
        for library in libraries::of(program)? {
            if libraries_added.insert(library.clone()) {
                add_library(&mut archive, &library, &mut libraries_added)?;
            }
        }
        let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        archive.file(&format!("bin/{name}"), &stripped(program, scratch)?);
    }
    archive.link("init", "bin/margay-lab");
    Ok(archive)
}

/// `base` and the modules of one kernel.
pub fn with_modules(base: &Archive, modules: &[Module]) -> Vec<u8> {
    let mut archive = base.clone();
    for (index, Module { name, bytes }) in modules.iter().enumerate() {
        archive.file(&format!("{MODULES}/{index:03}-{name}.ko"), bytes);
    }
    archive.finish()
}

/// Adds a file and the directories above it; `added` holds what is there already.
fn add_library(archive: &mut Archive, file: &Path, added: &mut BTreeSet<PathBuf>) -> Result<()> {
    let parents: Vec<&Path> = file.ancestors().skip(1).filter(|dir| dir.parent().is_some()).collect();
    for dir in parents.into_iter().rev() {
        if added.insert(dir.to_owned()) {
            archive.directory(&dir.to_string_lossy());
        }
    }
    let bytes = fs::read(file).with_context(|| format!("reading the library {}", file.display()))?;
    archive.file(&file.to_string_lossy(), &bytes);
    Ok(())
}

/// The program without symbols: a fraction of the size, and back traces are not read inside a VM.
fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let name = program.file_name().context("a program without a name")?;
    let out = scratch.join(name);
    run(Command::new("strip").arg("--strip-all").arg("-o").arg(&out).arg(program), "stripping a program")?;
    fs::read(&out).with_context(|| format!("reading {}", out.display()))
}
