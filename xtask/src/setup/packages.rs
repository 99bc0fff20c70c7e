//! Tools that come with the distribution: a C linker, bpftool, iproute2, qemu and what unpacks Debian's kernels.
//!
//! In: what is going to be done. Out: the missing packages, installed by apt-get on Debian and Ubuntu, or named on any
//! other distribution. A tool is looked for by its file, not by its package, so that where it came from does not matter.

use super::{Need, Prerequisite, State, root};
use crate::{
    paths,
    run::{run, say, succeeds},
};
use anyhow::{Result, bail};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The packages that some needs call for.
pub struct Packages {
    tools: Vec<&'static Tool>,
}

/// One tool, how to see that it is there, and which packages bring it.
struct Tool {
    name: &'static str,
    needs: &'static [Need],
    found: fn(&'static str) -> bool,
    debian: &'static [&'static str],
    ubuntu: &'static [&'static str],
}

const TOOLS: [Tool; 13] = [
    // Rust links with cc; libc6-dev has the start files.
    Tool {
        name: "cc",
        needs: &[Need::Build],
        found: on_path,
        debian: &["gcc", "libc6-dev"],
        ubuntu: &["gcc", "libc6-dev"],
    },
    Tool {
        name: "bpftool",
        needs: &[Need::Lab],
        found: bpftool_runs,
        debian: &["bpftool"],
        // Ubuntu's bpftool is a script that looks for the tools of the running kernel; `generic` has one that serves all.
        ubuntu: &["linux-tools-common", "linux-tools-generic"],
    },
    Tool { name: "ip", needs: &[Need::Lab], found: on_path, debian: &["iproute2"], ubuntu: &["iproute2"] },
    // The agent runs it; the image and other kernels' machines have a copy of it.
    Tool {
        name: "nft",
        needs: &[Need::Lab, Need::Image, Need::Vm, Need::Kubernetes],
        found: on_path,
        debian: &["nftables"],
        ubuntu: &["nftables"],
    },
    Tool {
        name: "qemu-system-x86_64",
        needs: &[Need::Vm],
        found: on_path,
        debian: &["qemu-system-x86"],
        ubuntu: &["qemu-system-x86"],
    },
    Tool { name: "xz", needs: &[Need::Vm], found: on_path, debian: &["xz-utils"], ubuntu: &["xz-utils"] },
    Tool { name: "strip", needs: &[Need::Vm], found: on_path, debian: &["binutils"], ubuntu: &["binutils"] },
    Tool { name: "ldd", needs: &[Need::Vm, Need::Image], found: on_path, debian: &["libc-bin"], ubuntu: &["libc-bin"] },
    Tool { name: "musl-gcc", needs: &[Need::Image], found: on_path, debian: &["musl-tools"], ubuntu: &["musl-tools"] },
    // For kube-proxy in that mode.
    Tool { name: "iptables", needs: &[Need::Kubernetes], found: on_path, debian: &["iptables"], ubuntu: &["iptables"] },
    // runc is built with seccomp: the kubelet asks it for every pod.
    Tool {
        name: "/usr/include/seccomp.h",
        needs: &[Need::Kubernetes],
        found: exists,
        debian: &["libseccomp-dev"],
        ubuntu: &["libseccomp-dev"],
    },
    Tool {
        name: "pkg-config",
        needs: &[Need::Kubernetes],
        found: on_path,
        debian: &["pkg-config"],
        ubuntu: &["pkg-config"],
    },
    Tool {
        name: "/usr/share/keyrings/debian-archive-keyring.gpg",
        needs: &[Need::Vm],
        found: exists,
        debian: &["debian-archive-keyring"],
        ubuntu: &["debian-archive-keyring"],
    },
];

fn on_path(name: &'static str) -> bool {
    paths::executable(name).is_some()
}

fn exists(file: &'static str) -> bool {
    Path::new(file).exists()
}

fn bpftool_runs(name: &'static str) -> bool {
    let on_path = paths::executable(name).is_some_and(|bpftool| succeeds(Command::new(bpftool).arg("version")));
    on_path || ubuntu_tools().is_some()
}

/// Where Ubuntu keeps the real bpftool of some kernel, when the script of that name does not know the running one.
fn ubuntu_tools() -> Option<PathBuf> {
    let kernels = fs::read_dir("/usr/lib/linux-tools").ok()?;
    kernels.flatten().map(|entry| entry.path()).find(|dir| dir.join("bpftool").exists())
}

/// `PATH` for the lab: with the system directories that an ordinary user's leaves out, and a bpftool that runs.
pub fn search_path() -> OsString {
    let given = env::var_os("PATH").unwrap_or_default();
    let works = paths::executable("bpftool").is_some_and(|bpftool| succeeds(Command::new(bpftool).arg("version")));
    let tools = if works { None } else { ubuntu_tools() };
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = tools.into_iter().chain(env::split_paths(&given)).chain(system).collect();
    env::join_paths(dirs).unwrap_or(given)
}

impl Packages {
    /// What the distribution must provide for `needs`.
    pub fn of(needs: &[Need]) -> Self {
        Self { tools: TOOLS.iter().filter(|tool| tool.needs.iter().any(|need| needs.contains(need))).collect() }
    }

    fn missing(&self) -> Vec<&'static Tool> {
        self.tools.iter().copied().filter(|tool| !(tool.found)(tool.name)).collect()
    }
}

impl Prerequisite for Packages {
    fn name(&self) -> String {
        "system packages".into()
    }

    fn check(&self) -> Result<State> {
        let missing = self.missing();
        if missing.is_empty() {
            let names: Vec<&str> = self.tools.iter().map(|tool| tool.name).collect();
            return Ok(State::Present(names.join(", ")));
        }
        let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
        Ok(State::Missing(format!("no {}", names.join(", "))))
    }

    fn install(&self) -> Result<String> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let packages = packages(&self.missing(), Distribution::of(&release));
        if paths::executable("apt-get").is_none() {
            bail!("there is no apt-get here: install what corresponds to Debian's {}", packages.join(" "));
        }
        // The lists may never have been fetched, or name versions that are gone: then fetch them and try again.
        if apt_get(&["install", "--yes", "--no-install-recommends"], &packages).is_err() {
            say("setup: apt-get has no such packages in its lists yet; updating the lists");
            update_lists()?;
            apt_get(&["install", "--yes", "--no-install-recommends"], &packages)?;
        }
        Ok(format!("installed {} with apt-get", packages.join(" ")))
    }
}

/// Where package names differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Distribution {
    Debian,
    Ubuntu,
}

impl Distribution {
    /// From the text of /etc/os-release; what calls itself neither is taken for Debian.
    fn of(os_release: &str) -> Self {
        let value = |name: &str| os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let ids = [value("ID"), value("ID_LIKE")];
        let ubuntu = ids.iter().flatten().any(|ids| ids.trim_matches('"').split(' ').any(|id| id == "ubuntu"));
        if ubuntu { Self::Ubuntu } else { Self::Debian }
    }
}

fn packages(missing: &[&'static Tool], distribution: Distribution) -> Vec<&'static str> {
    let of = |tool: &&'static Tool| match distribution {
        Distribution::Debian => tool.debian,
        Distribution::Ubuntu => tool.ubuntu,
    };
    let mut packages: Vec<&str> = missing.iter().flat_map(of).copied().collect();
    packages.dedup();
    packages
}

/// Fetches apt's lists, which may be missing or old.
pub fn update_lists() -> Result<()> {
    apt_get(&["update"], &[])
}

fn apt_get(verb: &[&str], packages: &[&str]) -> Result<()> {
    let mut apt = root::command(Path::new("apt-get"), &[("DEBIAN_FRONTEND", "noninteractive".as_ref())])?;
    apt.args(["-q", "-o", "Dpkg::Use-Pty=0"]).args(verb).args(packages);
    // apt's report is progress, not a result: keep standard output for results.
    apt.stdout(std::io::stderr());
    run(&mut apt, "installing packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_of_ubuntu_use_its_packages() {
        assert_eq!(Distribution::of("ID=ubuntu\nID_LIKE=debian\n"), Distribution::Ubuntu);
        assert_eq!(Distribution::of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Distribution::Ubuntu);
        assert_eq!(Distribution::of("PRETTY_NAME=x\nID=debian\n"), Distribution::Debian);
        assert_eq!(Distribution::of(""), Distribution::Debian);
    }

    #[test]
    fn each_missing_tool_brings_its_packages() {
        let bpftool: Vec<&Tool> = TOOLS.iter().filter(|tool| tool.name == "bpftool").collect();
        assert_eq!(packages(&bpftool, Distribution::Debian), ["bpftool"]);
        assert_eq!(packages(&bpftool, Distribution::Ubuntu), ["linux-tools-common", "linux-tools-generic"]);
    }

    #[test]
    fn a_build_needs_no_qemu() {
        let build = Packages::of(&[Need::Build]);
        assert!(build.tools.iter().all(|tool| tool.needs == [Need::Build]));
        assert!(!build.tools.is_empty());
    }
}
