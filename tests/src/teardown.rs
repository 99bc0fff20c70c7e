//! Taking a lab down. In: its name. Out: nothing of it is left. Never: stopping at the first error, or a process that is
//! not the lab's.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::{
    kubernetes::KubeCluster,
    lab::PATIENCE,
    names::LabName,
    netns::{self, Namespace},
    process::Process,
    rundir::RunDir,
};

/// A namespace's identity: device and inode of its file.
type NamespaceId = (u64, u64);

/// Ends all processes in the lab's namespaces, then removes namespaces, bpffs and directories.
///
/// # Errors
/// Everything that could not be removed, in one message.
pub(crate) fn take_down(name: &LabName) -> Result<()> {
    if KubeCluster::exists(name) {
        return KubeCluster::down(name);
    }
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err().map(|error| format!("{error:#}")));
    let names = Namespace::list(&name.prefix())?;
    note(end_processes(&names));
    RunDir::of(name).agents().iter().for_each(|agent| agent.process.reap());
    for namespace in &names {
        note(Namespace::remove(namespace));
    }
    note(RunDir::of(name).remove());
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// Ends every process whose network namespace is one of `names`: agents, and what was started by `exec`.
fn end_processes(names: &[String]) -> Result<()> {
    let own = id(Path::new("/proc/self/ns/net"));
    let ids: Vec<_> = names.iter().filter_map(|n| id(&netns::path(n))).filter(|i| Some(*i) != own).collect();
    let processes = processes_in(&ids);
    for process in &processes {
        process.signal(Signal::SIGTERM)?;
    }
    let deadline = Instant::now() + PATIENCE;
    for process in &processes {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10));
        process.end(left)?;
    }
    Ok(())
}

fn id(file: &Path) -> Option<NamespaceId> {
    fs::metadata(file).ok().map(|m| (m.dev(), m.ino()))
}

fn processes_in(namespaces: &[NamespaceId]) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    pids.filter(|pid| id(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|i| namespaces.contains(&i)))
        .filter_map(|pid| Process::of(pid).ok())
        .collect()
}
