//! `lab exec`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result, bail};
use margay_lab::{Lab, agent};

use super::Which;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// A node, or a pod as NAMESPACE/POD
    #[arg(value_name = "NODE|NAMESPACE/POD")]
    place: String,
    /// What to run; a shell if nothing is named. On a node, `margay` is this lab's, with this node's directories
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes the command, so signals, terminal and exit code are its own.
pub(super) fn exec(args: Args) -> Result<ExitCode> {
    let Args { which: Which { name }, place, command } = args;
    let lab = Lab::open(&name)?;
    let shell = [std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program, arguments),
        None => (&shell[0], &[][..]),
    };
    let is_pod = place.contains('/');
    let mut process = if program == "margay" && !is_pod {
        lab.margay_command(&place, arguments)?
    } else {
        let place = if is_pod { lab.pod(&place)? } else { lab.node(&place)? };
        let mut process = place.namespace.command(program);
        process.args(arguments);
        process
    };
    // What a script in there may need to find the lab again.
    process.env(agent::BINARY_VARIABLE, agent::find_binary().unwrap_or_default());
    let error = process.exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!("there is no program {}", program.display());
    }
    Err(error).with_context(|| format!("running {} in {place}", program.display()))
}
