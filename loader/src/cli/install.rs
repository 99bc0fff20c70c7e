//! `margay install`, and what of `margay uninstall` is about the same files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::{EXIT_OK, output, output::Format};
use crate::{
    cni::SOCKET,
    install::{self, DEFAULT_BIN_DIR, DEFAULT_CONF_DIR, DEFAULT_CONF_NAME, Install, Installed, Put},
    state::DEFAULT_STATE_DIR,
};

/// Where the plugin goes.
#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// Where the container runtime looks for CNI plugins
    #[arg(long, default_value = DEFAULT_BIN_DIR, value_name = "DIR")]
    bin_dir: PathBuf,
    /// Where the container runtime looks for network configurations
    #[arg(long, default_value = DEFAULT_CONF_DIR, value_name = "DIR")]
    conf_dir: PathBuf,
    /// The configuration's file. Runtimes use the first by name
    #[arg(long, default_value = DEFAULT_CONF_NAME, value_name = "FILE")]
    conf_name: String,
    /// A network configuration list to install in place of the built-in one, which chains portmap and bandwidth to Margay
    /// where they are in the bin directory
    #[arg(long, value_name = "FILE")]
    conf_template: Option<PathBuf>,
    /// The agent's socket, as the plugin sees it [default: the one in the state directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// From where the plugin is removed.
#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    /// Also remove the CNI plugin from this directory
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Also remove the network configuration from this directory
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,
    /// The configuration's file
    #[arg(long, default_value = DEFAULT_CONF_NAME, value_name = "FILE")]
    conf_name: String,
}

/// Installs, and says what was done.
pub(super) fn install(args: InstallArgs, state_dir: &Path, format: Format) -> Result<u8> {
    let InstallArgs { bin_dir, conf_dir, conf_name, conf_template, socket } = args;
    let elsewhere = || (state_dir != Path::new(DEFAULT_STATE_DIR)).then(|| state_dir.join(SOCKET));
    let socket = socket.or_else(elsewhere);
    let installed = Install { bin_dir, conf_dir, conf_name, template: conf_template, socket }.run()?;
    match format {
        Format::Json => output::json(&installed)?,
        Format::Table => print(&installed),
    }
    Ok(EXIT_OK)
}

fn print(installed: &Installed) {
    for Put { path, written } in &installed.files {
        let did = if *written { "installed" } else { "unchanged" };
        println!("{did} {}", path.display());
    }
    for note in &installed.notes {
        println!("note: {note}");
    }
}

/// Removes the plugin's files. Says what there was.
pub(super) fn uninstall(args: &UninstallArgs) -> Result<Vec<String>> {
    let UninstallArgs { bin_dir, conf_dir, conf_name } = args;
    install::remove(bin_dir.as_deref(), conf_dir.as_deref(), conf_name)
}
