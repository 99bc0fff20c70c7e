//! Control groups of nodes. In: a node's place, `margay-lab/CLUSTER/NODE`. Out: that group in every hierarchy of the machine,
//! of version 1 and 2. Never: a process outside that group.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Below this group all clusters have theirs.
const TOP: &str = "margay-lab";
/// How long killed processes may take to leave their groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// One hierarchy, as the machine has it mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Controllers, as mount(8) wants them for version 1: `cpu,cpuacct`, `name=systemd`. `None`: version 2.
    pub(super) controllers: Option<String>,
}

/// A control group in every hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    path: PathBuf,
}

/// All hierarchies of this machine.
///
/// # Errors
/// /proc is not mounted, or there is none.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let found = parse_mountinfo(&text);
    if found.is_empty() {
        bail!("no control groups are mounted on this machine; mount them below /sys/fs/cgroup");
    }
    Ok(found)
}

/// proc_pid_mountinfo(5): the fifth field is where, and behind the dash stand type, source and options.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let controllers = match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => Some(controllers(options)),
            (Some("cgroup2"), _) => None,
            _ => continue,
        };
        if !found.iter().any(|h| h.controllers == controllers) {
            found.push(Hierarchy { mount: mount.into(), controllers });
        }
    }
    found
}

/// `rw,cpu,cpuacct` has two of them; what else stands there is about the mount.
fn controllers(options: &str) -> String {
    let other =
        |o: &&str| !matches!(*o, "rw" | "ro" | "xattr" | "none" | "clone_children") && !o.starts_with("release_agent");
    options.split(',').filter(other).collect::<Vec<_>>().join(",")
}

// === impl Cgroup ===

impl Cgroup {
    /// The group of a node.
    pub(super) fn of_node(cluster: &str, node: &str) -> Result<Self> {
        Ok(Self { hierarchies: hierarchies()?, path: Path::new(TOP).join(cluster).join(node) })
    }

    /// The group of all nodes of a cluster.
    pub(super) fn of_cluster(cluster: &str) -> Result<Self> {
        Ok(Self { hierarchies: hierarchies()?, path: Path::new(TOP).join(cluster) })
    }

    /// Makes it everywhere, with every controller.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn create(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.mount.clone();
            for part in &self.path {
                let parent = dir.clone();
                dir.push(part);
                make(&parent, &dir, hierarchy)
                    .with_context(|| format!("making the control group {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn join(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let file = hierarchy.mount.join(&self.path).join("cgroup.procs");
            // 0 stands for the process that writes.
            fs::write(&file, "0").with_context(|| format!("moving a node into {}", file.display()))?;
        }
        Ok(())
    }

    /// Kills every process in it and below, and takes it away. No error if there is none.
    ///
    /// # Errors
    /// A process does not end, or the kernel refuses.
    pub(super) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mount.join(&self.path);
            while let Err(error) = remove_tree(&dir) {
                if Instant::now() > deadline {
                    return Err(error).with_context(|| format!("removing the control group {}", dir.display()));
                }
                thread::sleep(Duration::from_millis(10));
            }
            // Fail while others have theirs below them.
            let parents = self.path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
            for parent in parents {
                let _ = fs::remove_dir(hierarchy.mount.join(parent));
            }
        }
        Ok(())
    }
}

/// One directory, usable at once.
fn make(parent: &Path, dir: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match &hierarchy.controllers {
        // Without processors and memory of its own, a cpuset takes no process.
        Some(controllers) if controllers.split(',').any(|c| c == "cpuset") => {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), fs::read(parent.join(file))?)?;
            }
        }
        Some(_) => {}
        None => {
            let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
            for controller in available.split_whitespace() {
                fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
            }
        }
    }
    Ok(())
}

/// Bottom-up: a group with groups below it cannot be removed.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0) {
        // It may have ended by now.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
52 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn each_hierarchy_is_found_once() {
        let found = parse_mountinfo(MOUNTINFO);
        let found: Vec<_> = found.iter().map(|h| (h.mount.to_str().unwrap(), h.controllers.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
                ("/sys/fs/cgroup/systemd", Some("name=systemd")),
                ("/sys/fs/cgroup/unified", None),
            ]
        );
    }
}
