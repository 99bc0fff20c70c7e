//! What stands in the image's file system, one part for each layer.
//!
//! In: programs of this machine. Out: paths with their content, in order; as a tar, or as a directory. Never: a time, an
//! owner, or anything else that differs from one build to the next.

use super::tar::Tar;
use crate::{paths, run::succeeds, vm::libraries};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Files by their paths, without a leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rootfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link { to: String },
}

/// The mode of programs and libraries, and that of all other files.
const PROGRAM: u32 = 0o755;
const TEXT: u32 = 0o644;

// === impl Rootfs ===

impl Rootfs {
    /// `/margay`, and links where one looks for a command and where installers of CNI plugins do.
    pub fn of_margay(binary: &Path) -> Result<Self> {
        let mut rootfs = Self::default();
        rootfs.copy(binary, "margay", PROGRAM)?;
        for link in ["usr/bin/margay", "opt/cni/bin/margay"] {
            rootfs.add(link, Entry::Link { to: "/margay".to_owned() });
        }
        Ok(rootfs)
    }

    /// nft and the libraries that it needs, at the paths that they have here, with their packages' copyright files.
    pub fn of_nft() -> Result<Self> {
        let nft = paths::executable("nft").context("there is no nft: run `cargo xtask setup`")?;
        let mut rootfs = Self::default();
        rootfs.copy(&nft, "usr/sbin/nft", PROGRAM)?;
        let libraries = libraries::of(&nft)?;
        for library in &libraries {
            rootfs.copy(library, &inside(library), PROGRAM)?;
        }
        let sources: Vec<PathBuf> = libraries.into_iter().chain([nft]).collect();
        for package in packages(&sources) {
            let copyright = PathBuf::from(format!("/usr/share/doc/{package}/copyright"));
            if copyright.exists() {
                rootfs.copy(&copyright, &inside(&copyright), TEXT)?;
            }
        }
        Ok(rootfs)
    }

    /// As a layer.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Tar::default();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => tar.directory(path),
                Entry::File { mode, bytes } => tar.file(path, *mode, bytes),
                Entry::Link { to } => tar.link(path, to),
            }
        }
        tar.finish()
    }

    /// As files below `dir`; what is there already stays, unless it has the same path.
    pub fn write_to(&self, dir: &Path) -> Result<()> {
        for (path, entry) in &self.entries {
            let path = dir.join(path);
            write(&path, entry).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Links are followed: what stands in the image is the file itself.
    fn copy(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.add(to, Entry::File { mode, bytes });
        Ok(())
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn write(path: &Path, entry: &Entry) -> std::io::Result<()> {
    match entry {
        Entry::Directory => fs::create_dir_all(path),
        Entry::File { mode, bytes } => {
            fs::write(path, bytes)?;
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Entry::Link { to } => {
            // One of an earlier run; anything else in the way is an error below.
            let _ = fs::remove_file(path);
            symlink(to, path)
        }
    }
}

/// The packages that the files are from; none where the machine has no dpkg.
fn packages(files: &[PathBuf]) -> BTreeSet<String> {
    if !succeeds(Command::new("dpkg-query").arg("--version")) {
        return BTreeSet::new();
    }
    files.iter().filter_map(|file| package(file)).collect()
}

/// dpkg knows a file by the path in its package, which since /lib is a link to /usr/lib may be either.
fn package(file: &Path) -> Option<String> {
    let text = inside(file);
    let bare = text.strip_prefix("usr/").unwrap_or(&text);
    [format!("/{bare}"), format!("/usr/{bare}")].iter().find_map(|path| {
        let found =
            Command::new("dpkg-query").args(["--search", path]).output().ok().filter(|out| out.status.success())?;
        first_package(&String::from_utf8_lossy(&found.stdout))
    })
}

/// `libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6`
fn first_package(said: &str) -> Option<String> {
    let packages = said.lines().find(|line| !line.starts_with("diversion "))?.split(": ").next()?;
    Some(packages.split([',', ':']).next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Rootfs {
        let mut rootfs = Rootfs::default();
        rootfs.add("usr/bin/x", Entry::File { mode: PROGRAM, bytes: b"x".to_vec() });
        rootfs.add("opt/x", Entry::Link { to: "/usr/bin/x".to_owned() });
        rootfs
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let paths: Vec<_> = sample().entries.into_keys().collect();
        assert_eq!(paths, ["opt", "opt/x", "usr", "usr/bin", "usr/bin/x"]);
    }

    #[test]
    fn a_directory_of_it_has_modes_and_links_and_can_be_written_again() {
        let dir = std::env::temp_dir().join(format!("margay-xtask-rootfs-{}", std::process::id()));
        for _ in 0..2 {
            sample().write_to(&dir).unwrap();
        }
        assert_eq!(fs::metadata(dir.join("usr/bin/x")).unwrap().permissions().mode() & 0o777, PROGRAM);
        assert_eq!(fs::read_link(dir.join("opt/x")).unwrap(), Path::new("/usr/bin/x"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn dpkg_names_the_package_before_the_path() {
        assert_eq!(first_package("libc6:amd64: /lib/x/libc.so.6\n").as_deref(), Some("libc6"));
        assert_eq!(first_package("nftables: /usr/sbin/nft\n").as_deref(), Some("nftables"));
        assert_eq!(first_package("diversion by dash from: /bin/sh\ndash: /bin/sh\n").as_deref(), Some("dash"));
        assert_eq!(first_package(""), None);
    }
}
