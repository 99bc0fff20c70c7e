//! `lab exec`.

use std::{env, ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result, bail};
use margay_lab::{Lab, Place, agent, kubernetes::KubeCluster};

use super::{Which, kubernetes};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// A node, or a pod as NAMESPACE/POD
    #[arg(value_name = "NODE|NAMESPACE/POD")]
    place: String,
    /// What to run; a shell if nothing is named. On a node, `margay` is this lab's, and looks at this node
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes the command, so signals, terminal and exit code are its own.
pub(super) fn exec(args: Args) -> Result<ExitCode> {
    let Args { which: Which { name }, place, command } = args;
    if KubeCluster::exists(&name) {
        return kubernetes::exec(&name, &place, &command).map(|()| ExitCode::SUCCESS);
    }
    let lab = Lab::open(&name)?;
    let place = if place.contains('/') { lab.pod(&place)? } else { lab.node(&place)? };
    let shell = [env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    let command = if command.is_empty() { &shell[..] } else { &command[..] };
    let mut process = place.namespace.command(&command[0]);
    process.args(&command[1..]);
    if !place.is_pod() {
        process.envs(environment(&lab, &place)?);
    }
    let error = process.exec();
    let program = command[0].display();
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!("there is no program {program}");
    }
    Err(error).with_context(|| format!("running {program} in {place}"))
}

/// What makes `margay` look at this node: its binary on the path, its directories as defaults.
fn environment(lab: &Lab, node: &Place) -> Result<Vec<(&'static str, OsString)>> {
    let mut variables = vec![
        ("MARGAY_BPFFS", lab.dir().bpf_of(&node.node).into_os_string()),
        ("MARGAY_STATE_DIR", lab.dir().agent_state(&node.node).into_os_string()),
    ];
    let binary = lab.agent(&node.node).map(|agent| agent.binary).or_else(|| agent::find_binary().ok());
    if let Some(dir) = binary.as_deref().and_then(|b| b.parent()) {
        let old = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([dir.to_owned()].into_iter().chain(env::split_paths(&old)))?;
        variables.push(("PATH", path));
    }
    Ok(variables)
}
