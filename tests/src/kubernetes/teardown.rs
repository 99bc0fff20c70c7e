//! Taking a control plane or cluster down. In: its name. Out: nothing of it is left. Never: stopping at the first error, or
//! a process that is not the cluster's.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{
    daemon,
    dir::{KubeDir, State},
    network, node, sysctls,
};
use crate::{names::LabName, netns::Namespace, rundir};

/// Ends all programs, then removes control groups, namespaces, disks and directories, and restores the machine's settings.
///
/// # Errors
/// Everything that could not be removed, in one message.
pub(crate) fn take_down(name: &LabName) -> Result<()> {
    let dir = KubeDir::of(name);
    let nodes = fs::read_dir(dir.nodes()).into_iter().flatten().flatten().map(|entry| entry.path());
    let daemons = nodes.chain([dir.daemons()]).flat_map(|dir| daemon::all(&dir));
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err().map(|error| format!("{error:#}")));
    for daemon in daemons {
        note(daemon.kill());
    }
    if dir.load().is_ok_and(|state| state.cluster.is_some()) {
        note(node::remove_all(name).context("removing the nodes"));
        note(sysctls::restore(name));
    }
    note(network::remove_link(name).context("removing the link to this machine"));
    for namespace in Namespace::list(&name.prefix())? {
        note(Namespace::remove(&namespace));
    }
    note(dir.remove());
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// Takes down what processes made that were killed and are not there to do it.
pub(super) fn take_down_orphans() {
    for name in rundir::list().unwrap_or_default() {
        if let Ok(State { owner: Some(owner), .. }) = KubeDir::of(&name).load()
            && !owner.runs()
        {
            // It is in nobody's way, unless a name is used twice, and then that is said.
            let _ = take_down(&name);
        }
    }
}
