//! Building one group. In: its go.mod and go.sum. Out: programs, and beside them a file that says what they were built
//! from. Never: a change of go.mod or go.sum (`-mod=readonly`), or a module that go.sum does not know.

use super::{
    go::Go,
    programs::{Group, Program},
};
use crate::{paths, run::output};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The tags with which runc finds libseccomp, without which no pod starts; the others let it be linked statically.
const RUNC_TAGS: &str = "seccomp,netgo,osusergo";

/// How a group is built, and where to.
pub struct Recipe {
    group: &'static Group,
    /// The directory of its go.mod.
    source: PathBuf,
    /// `<cache>/kubernetes/GROUP-VERSION`
    target: PathBuf,
    /// Everything that decides what comes out, as text.
    text: String,
}

// === impl Recipe ===

impl Recipe {
    /// Reads the pins of a group.
    pub fn of(group: &'static Group, directory: &Path) -> Result<Self> {
        let source = paths::root().join("tests/kubernetes").join(group.name);
        let read = |name: &str| {
            let file = source.join(name);
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
        };
        let flags = flags(group).join(" ");
        let text = format!("{flags}\n{}{}", read("go.mod")?, read("go.sum")?);
        let bin = group.bin(directory);
        let target = bin.parent().context("a program's directory has a parent")?.to_owned();
        Ok(Self { group, source, target, text })
    }

    fn bin(&self) -> PathBuf {
        self.target.join("bin")
    }

    fn record(&self) -> PathBuf {
        self.target.join("built-from")
    }

    /// Whether what is in the cache was built like this.
    fn is_current(&self) -> bool {
        fs::read_to_string(self.record()).is_ok_and(|text| text == self.text)
    }

    /// Whether a program is in the cache.
    pub fn has_built(&self, program: &Program) -> bool {
        self.bin().join(program.name).is_file() && self.is_current()
    }

    /// Removes what was built otherwise.
    pub fn prepare(&self) -> Result<()> {
        let describe = || format!("preparing {}", self.target.display());
        if !self.is_current() && self.target.exists() {
            fs::remove_dir_all(&self.target).with_context(describe)?;
        }
        fs::create_dir_all(self.bin()).with_context(describe)?;
        fs::write(self.record(), &self.text).with_context(describe)
    }

    /// Builds one program.
    pub fn build(&self, program: &Program, go: &Go) -> Result<()> {
        // Renamed when complete, so that what stands there is never half a program.
        let unfinished = self.target.join(format!("{}.unfinished", program.name));
        let mut command = go.command();
        command.current_dir(&self.source).env("CGO_ENABLED", if self.group.name == "runc" { "1" } else { "0" });
        command.arg("build").args(flags(self.group)).arg("-o").arg(&unfinished).arg(program.package);
        output(&mut command, &format!("building {} {}", program.name, self.group.version))?;
        if program.name == "runc" {
            check_runc(&unfinished)?;
        }
        let file = self.bin().join(program.name);
        fs::rename(&unfinished, &file).with_context(|| format!("renaming {}", unfinished.display()))
    }
}

/// Arguments of `go build` that are the same for all programs of a group.
fn flags(group: &Group) -> Vec<String> {
    let mut flags = ["-mod=readonly", "-trimpath", "-buildvcs=false"].map(String::from).to_vec();
    let mut linker = "-s -w".to_owned();
    match group.name {
        "kubernetes" => {
            let mut parts = group.version.split('.');
            let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                linker.push_str(&format!(
                    " -X {package}.gitVersion=v{} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}",
                    group.version
                ));
            }
        }
        "runc" => {
            linker.push_str(" -extldflags -static");
            flags.push(format!("-tags={RUNC_TAGS}"));
        }
        _ => {}
    }
    flags.push(format!("-ldflags={linker}"));
    flags
}

/// Without libseccomp everything looks well until the first pod, which then cannot start.
fn check_runc(file: &Path) -> Result<()> {
    let version = output(Command::new(file).arg("--version"), "asking runc for its version")?;
    anyhow::ensure!(version.contains("libseccomp"), "runc was built without libseccomp:\n{version}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::programs::GROUPS;

    #[test]
    fn each_group_has_its_module_at_its_version() {
        for group in GROUPS {
            let recipe = Recipe::of(group, Path::new("/cache")).unwrap();
            let version = format!(" v{}\n", group.version);
            let pinned = recipe.text.lines().find(|line| line.starts_with("require ")).unwrap();
            assert!(format!("{pinned}\n").ends_with(&version), "{}: {pinned}", group.name);
            let module = pinned.split(' ').nth(1).unwrap();
            assert!(group.programs.iter().all(|p| p.package.starts_with(module)), "{}", group.name);
        }
    }

    #[test]
    fn kubernetes_knows_its_version() {
        let group = GROUPS.iter().find(|g| g.name == "kubernetes").unwrap();
        let flags = flags(group).join(" ");
        assert!(flags.contains(&format!("component-base/version.gitVersion=v{} ", group.version)), "{flags}");
        assert!(flags.contains("gitMinor=36"), "{flags}");
    }
}
