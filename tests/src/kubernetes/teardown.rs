//! Taking a control plane or cluster down. In: its name. Out: nothing of it is left. Never: stopping at the first error, or
//! a process that is not the cluster's.

use anyhow::{Result, bail};

use super::{
    daemon,
    dir::{KubeDir, State},
};
use crate::{names::LabName, netns::Namespace};

/// Ends all programs, then removes namespaces and directories.
///
/// # Errors
/// Everything that could not be removed, in one message.
pub(crate) fn take_down(name: &LabName) -> Result<()> {
    let dir = KubeDir::of(name);
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err().map(|error| format!("{error:#}")));
    for daemon in daemon::all(&dir.daemons()) {
        note(daemon.kill());
    }
    for namespace in Namespace::list(&name.prefix())? {
        note(Namespace::remove(&namespace));
    }
    note(dir.remove());
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// One whose process was killed is in nobody's use: its name is free again.
pub(super) fn take_down_orphan(dir: &KubeDir) -> Result<()> {
    match dir.load() {
        Ok(State { owner: Some(owner), name, .. }) if !owner.runs() => take_down(&name),
        _ => Ok(()),
    }
}
