//! What a node sees of the machine's files. In: its [`Spec`]; the calling process has a mount, pid and cgroup namespace of
//! its own already. Out: a root that looks like a machine of its own. Never: a change of a file that is the machine's.
//!
//! | directory | what it is |
//! |---|---|
//! | `/etc`, `/var` | the machine's, below a layer of the node's own that takes every change |
//! | `/opt`, `/var/lib/containerd`, `/var/lib/kubelet`, `/var/log` | the node's own, on disk |
//! | `/run` | new and empty, but for the cluster's directory |
//! | `/proc`, `/sys`, `/sys/fs/bpf`, `/sys/fs/cgroup` | fresh mounts, as this node's namespaces have them |
//! | the rest | the machine's |

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::{
    cgroups::{self, Hierarchy},
    spec::Spec,
};
use crate::{kubernetes::dir::KubeDir, names::LabName};

/// Directories of the machine that the node may change for itself. `/var` is the last, because it hides the layers.
const LAYERED: [&str; 2] = ["/etc", "/var"];
/// Directories of the node's own, and their names in its data directory.
const OWN: [(&str, &str); 4] =
    [("opt", "/opt"), ("containerd", "/var/lib/containerd"), ("kubelet", "/var/lib/kubelet"), ("log", "/var/log")];
/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Mounts everything.
///
/// # Errors
/// The kernel refuses.
pub(super) fn set_up(spec: &Spec) -> Result<()> {
    // They are found by where the machine has them; later that is hidden.
    let hierarchies = cgroups::hierarchies()?;
    change("/", MsFlags::MS_PRIVATE)?;
    // Open while they can be seen; bound afterwards.
    let data = File::open(&spec.data).with_context(|| format!("opening {}", spec.data.display()))?;
    let cluster = KubeDir::of(&spec.cluster);
    let run = File::open(cluster.path()).with_context(|| format!("opening {}", cluster.path().display()))?;
    for dir in LAYERED {
        layer(Path::new(dir), &spec.data)?;
    }
    for (name, dir) in OWN {
        bind(&through(&data, name), Path::new(dir))?;
    }
    bind(&through(&data, "."), &spec.data)?;
    fresh("tmpfs", "/run", Some("mode=0755"))?;
    bind(&through(&run, "."), cluster.path())?;
    fs::create_dir_all("/run/lock").context("making /run/lock")?;
    fresh("proc", "/proc", None)?;
    fresh("sysfs", "/sys", None)?;
    fresh("bpf", "/sys/fs/bpf", Some("mode=0700"))?;
    control_groups(&hierarchies)?;
    // Volumes of pods must reach their containers.
    change("/", MsFlags::MS_SHARED)
}

/// Makes the data directory of a node, with what [`set_up`] binds.
///
/// # Errors
/// The disk is full, or not writable.
pub(super) fn make_data(data: &Path) -> Result<()> {
    let layers = LAYERED.iter().flat_map(|dir| ["upper", "work"].map(|part| layer_part(data, Path::new(dir), part)));
    let own = OWN.iter().map(|(name, _)| data.join(name));
    for dir in layers.chain(own) {
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    Ok(())
}

/// Where the clusters' nodes keep what is large. Not /run, which is memory on most machines.
pub(super) fn data(cluster: &LabName) -> PathBuf {
    Path::new("/var/lib/margay-lab").join(cluster.as_str())
}

fn layer_part(data: &Path, dir: &Path, part: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default();
    data.join("layers").join(name).join(part)
}

/// Puts a layer over a directory, which takes what is written to it.
fn layer(dir: &Path, data: &Path) -> Result<()> {
    let [upper, work] = ["upper", "work"].map(|part| layer_part(data, dir, part));
    let options = format!("lowerdir={},upperdir={},workdir={}", dir.display(), upper.display(), work.display());
    mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("layering {}: {} must not itself be on an overlay", dir.display(), data.display()))
}

/// A path to something below an open directory, wherever that is, or whatever hides it.
fn through(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

fn bind(source: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    mount(Some(source), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding a node's directory to {}", dir.display()))
}

fn fresh(kind: &str, dir: &str, options: Option<&str>) -> Result<()> {
    mount(Some(kind), dir, Some(kind), MsFlags::empty(), options).with_context(|| format!("mounting {kind} on {dir}"))
}

fn change(dir: &str, propagation: MsFlags) -> Result<()> {
    mount(None::<&str>, dir, None::<&str>, propagation | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("changing the propagation of {dir}"))
}

/// Mounts all hierarchies where the machine has them: in this namespace, the node's own group is the root of each.
fn control_groups(hierarchies: &[Hierarchy]) -> Result<()> {
    if let [Hierarchy { controllers: None, .. }] = hierarchies {
        return fresh("cgroup2", CGROUPS, None);
    }
    fresh("tmpfs", CGROUPS, Some("mode=0755"))?;
    for Hierarchy { mount, controllers } in hierarchies {
        fs::create_dir_all(mount).with_context(|| format!("making {}", mount.display()))?;
        let dir = mount.to_string_lossy();
        match controllers {
            None => fresh("cgroup2", &dir, None)?,
            Some(controllers) => {
                fresh("cgroup", &dir, Some(controllers))?;
                links(mount, controllers)?;
            }
        }
    }
    Ok(())
}

/// `cpu` and `cpuacct` lead to `cpu,cpuacct`.
fn links(mount: &Path, controllers: &str) -> Result<()> {
    for controller in controllers.split(',').filter(|c| !c.contains('=')) {
        let link = Path::new(CGROUPS).join(controller);
        if !link.exists() {
            let target = mount.file_name().unwrap_or_default();
            symlink(target, &link).with_context(|| format!("making {}", link.display()))?;
        }
    }
    Ok(())
}
