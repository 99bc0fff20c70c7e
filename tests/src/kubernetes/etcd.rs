//! etcd's command line. In: a directory. Out: a command whose servers are sockets in that directory, so that it needs no
//! port and nobody else reaches it. Never: data that must survive a power failure: it does not wait for the disk.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::programs;

/// The URL at which clients find it.
pub(super) fn url(directory: &Path) -> String {
    format!("unix://{}", directory.join("clients").display())
}

/// The command that starts it.
pub(super) fn command(directory: &Path) -> Result<Command> {
    let clients = url(directory);
    let peers = format!("unix://{}", directory.join("peers").display());
    let mut command = Command::new(programs::path("etcd")?);
    command.arg("--name=etcd").arg(format!("--data-dir={}", directory.join("data").display()));
    command.arg(format!("--listen-client-urls={clients}")).arg(format!("--advertise-client-urls={clients}"));
    command.arg(format!("--listen-peer-urls={peers}")).arg(format!("--initial-advertise-peer-urls={peers}"));
    command.arg(format!("--initial-cluster=etcd={peers}"));
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    Ok(command)
}
