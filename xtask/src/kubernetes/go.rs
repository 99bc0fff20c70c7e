//! A Go that builds Kubernetes: 1.26. In: the Gos of this machine. Out: the one to use. Where there is none, or an older
//! one, Go itself fetches 1.26 from the module proxy (`GOTOOLCHAIN`, checked against the checksum database); where there
//! is none that can do that (1.21), Debian's is unpacked into the cache first. Never: an installation.

use crate::{
    paths,
    run::{output, say},
    vm::archive::Apt,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What Kubernetes 1.36 is built with. Built with 1.27 its OpenAPI comes out wrong, and `kubectl apply` fails.
const TOOLCHAIN: &str = "go1.26.8";
const MAJOR_MINOR: (u32, u32) = (1, 26);
/// The first that fetches another one when told to.
const FIRST_WITH_TOOLCHAINS: (u32, u32) = (1, 21);
/// Debian's newest for its oldest supported release: runs on every later one, too.
const DEBIAN: (&str, [&str; 2], &str) =
    ("bookworm-backports", ["golang-1.23-go", "golang-1.23-src"], "usr/lib/go-1.23/bin/go");

/// A Go that was found.
pub struct Go {
    file: PathBuf,
    /// What to set `GOTOOLCHAIN` to.
    toolchain: &'static str,
    version: String,
}

// === impl Go ===

impl Go {
    /// For messages.
    pub fn name(&self) -> &str {
        if self.toolchain == "local" { &self.version } else { self.toolchain }
    }

    /// A command without what the user's environment would add to a build.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        command.env("GOTOOLCHAIN", self.toolchain).env("GOFLAGS", "").env("GOWORK", "off");
        command
    }

    /// The Go in a file, if it can be used.
    fn at(file: PathBuf) -> Option<Self> {
        let mut command = Command::new(&file);
        let text = output(command.arg("version").env("GOTOOLCHAIN", "local"), "asking Go for its version").ok()?;
        let version = text.split(' ').nth(2)?.to_owned();
        let toolchain = toolchain(&version)?;
        Some(Self { file, toolchain, version })
    }
}

/// Finds a Go, or brings one.
pub fn find_or_fetch() -> Result<Go> {
    let unpacked = paths::cache()?.join("tools/go");
    let places = [paths::executable("go"), Some("/usr/local/go/bin/go".into()), Some(unpacked.join(DEBIAN.2))];
    let mut found: Vec<Go> = places.into_iter().flatten().filter_map(Go::at).collect();
    // One that is right as it is comes before one that has to fetch another.
    found.sort_by_key(|go| go.toolchain != "local");
    let go = match found.into_iter().next() {
        Some(go) => go,
        None => fetch(&unpacked)?,
    };
    // Here, so that an error is not one of the first build.
    output(go.command().arg("version"), &format!("fetching {TOOLCHAIN} from the Go module proxy"))?;
    Ok(go)
}

fn fetch(directory: &Path) -> Result<Go> {
    let (suite, packages, file) = DEBIAN;
    say(format!("there is no Go of version 1.21 or later here; unpacking Debian's {} into the cache", packages[0]));
    let fetch = || -> Result<()> {
        let apt = Apt::new(&directory.join("apt"), suite)?;
        apt.update()?;
        apt.unpack(&packages.map(String::from), directory)
    };
    fetch().context("fetching Go: or install any Go from 1.21 on yourself")?;
    fs::metadata(directory.join(file)).context("looking for Go in what was unpacked")?;
    Go::at(directory.join(file))
        .context("Debian's Go does not run on this machine: install any Go from 1.21 on yourself")
}

/// What `GOTOOLCHAIN` has to be for a Go that calls itself `go1.24.2`; `None` if it is of no use.
fn toolchain(version: &str) -> Option<&'static str> {
    let mut numbers = version.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    let version: (u32, u32) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    if version == MAJOR_MINOR {
        return Some("local");
    }
    (version >= FIRST_WITH_TOOLCHAINS).then_some(TOOLCHAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_go_is_used_as_it_is_and_others_fetch_it() {
        assert_eq!(toolchain("go1.26.3"), Some("local"));
        assert_eq!(toolchain("go1.26rc1"), Some("local"));
        assert_eq!(toolchain("go1.27.0"), Some(TOOLCHAIN));
        assert_eq!(toolchain("go1.21.0"), Some(TOOLCHAIN));
        assert_eq!(toolchain("go1.19.8"), None);
        assert_eq!(toolchain("devel"), None);
    }
}
