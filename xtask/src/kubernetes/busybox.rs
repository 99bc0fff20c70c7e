//! A static busybox for the tests' images: Debian's. In: the machine's own apt sources. Out: the file
//! `<cache>/kubernetes/busybox/bin/busybox`. Never: an installation, which would replace the machine's own busybox.

use super::directory;
use crate::{
    run::{output, run, succeeds},
    setup::{Prerequisite, State, packages},
};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf, process::Command};

/// The prerequisite.
pub struct Busybox;

const PACKAGE: &str = "busybox-static";

fn file() -> Result<PathBuf> {
    Ok(directory()?.join("busybox/bin/busybox"))
}

impl Prerequisite for Busybox {
    fn name(&self) -> String {
        "static busybox".into()
    }

    fn check(&self) -> Result<State> {
        let file = file()?;
        if succeeds(&mut Command::new(&file)) {
            return Ok(State::Present(file.display().to_string()));
        }
        Ok(State::Missing(format!("there is no {}", file.display())))
    }

    fn install(&self) -> Result<String> {
        let directory = directory()?.join("busybox");
        fs::create_dir_all(directory.join("bin")).with_context(|| format!("creating {}", directory.display()))?;
        let download = || {
            output(
                Command::new("apt-get").args(["-qq", "download", PACKAGE]).current_dir(&directory),
                "downloading busybox",
            )
        };
        if download().is_err() {
            packages::update_lists()?;
            download()?;
        }
        let unpacked = directory.join("unpacked");
        for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|e| e == "deb") {
                run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&unpacked), "unpacking busybox")?;
                fs::remove_file(&deb)?;
            }
        }
        // Where it is depends on the release.
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
        let found = places.iter().find(|place| place.is_file()).context("the package holds no busybox")?;
        let file = file()?;
        fs::rename(found, &file).with_context(|| format!("renaming {}", found.display()))?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("removing {}", unpacked.display()))?;
        Ok(format!("unpacked Debian's {PACKAGE} into {}", directory.display()))
    }
}
