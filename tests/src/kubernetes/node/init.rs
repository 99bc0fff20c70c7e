//! A node's first processes: `margay-lab kubernetes-node CLUSTER NODE`, started in the node's network namespace.
//!
//! In: the node's [`Spec`]. Out: two processes. The outer one enters the node's control group, makes the other namespaces,
//! and waits; the inner one is process 1 of the node: it mounts, and keeps the node's services running. When the outer
//! one ends, the kernel ends the inner one, and with it everything on the node. Never: a return to the caller.

use std::{
    env,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::ffi::OsStrExt,
};

use anyhow::{Context, Result, bail};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork, pipe},
};

use super::{cgroups::Cgroup, mounts, services, spec::Spec};
use crate::{
    names::{LabName, check_node_name},
    process::Process,
    rundir::write_json,
};

/// The first argument of a process that is to be a node.
pub(super) const COMMAND: &str = "kubernetes-node";
/// In the node's directory: who its process 1 is, as this machine counts.
pub(super) const FIRST: &str = "first-process.json";

/// Becomes a node if that is what the arguments say. To be called before the process has threads.
pub fn enter() {
    let args: Vec<_> = env::args_os().collect();
    if let [_, command, cluster, node] = &args[..]
        && command.as_bytes() == COMMAND.as_bytes()
    {
        let started = start(&cluster.to_string_lossy(), &node.to_string_lossy());
        if let Err(error) = &started {
            eprintln!("node {}: {error:#}", node.display());
        }
        std::process::exit(i32::from(started.is_err()));
    }
}

fn start(cluster: &str, node: &str) -> Result<()> {
    let cluster: LabName = cluster.parse()?;
    check_node_name(node)?;
    let spec = Spec::load(&cluster, node)?;
    Cgroup::of_node(cluster.as_str(), node)?.join()?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).context("making the namespaces of a node: are you root?")?;
    // Process 1 mounts another /proc over the one in which its parent looks for it: it waits until it has been found.
    let (wait, go) = pipe().context("making a pipe")?;
    // SAFETY: this process has one thread, so the child may do what any process may.
    match unsafe { fork() }.context("starting process 1 of a node")? {
        ForkResult::Child => {
            drop(go);
            if File::from(wait).read(&mut [0]).context("waiting for the parent")? == 0 {
                bail!("the parent of process 1 has ended");
            }
            first(&spec)
        }
        ForkResult::Parent { child } => {
            write_json(&spec.dir().join(FIRST), &Process::of(child.as_raw())?)?;
            File::from(go).write_all(&[1]).context("letting process 1 go on")?;
            match waitpid(child, None).context("waiting for process 1 of a node")? {
                WaitStatus::Exited(_, 0) => Ok(()),
                status => bail!("process 1 ended: {status:?}"),
            }
        }
    }
}

/// What process 1 does.
fn first(spec: &Spec) -> Result<()> {
    // SAFETY: prctl(2) with these arguments sets an attribute of the calling process.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        bail!("binding process 1 to its parent: {}", std::io::Error::last_os_error());
    }
    std::fs::write("/proc/sys/kernel/hostname", &spec.name).context("naming a node")?;
    mounts::set_up(spec)?;
    services::run(spec)
}
