//! containerd on a node: its configuration and command line. In: a node's directory. Out: a file and a command. Never: a
//! registry; all images are imported.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    kubernetes::{images::PAUSE, programs},
    rundir::replace_file,
};

/// Where it listens.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// The command that starts it.
pub(super) fn command(dir: &Path) -> Result<Command> {
    let file = dir.join("containerd.toml");
    replace_file(&file, &configuration(&programs::path("runc")?))?;
    let mut command = Command::new(programs::path("containerd")?);
    command.arg("--config").arg(file).args(["--log-level", "warn"]).env("PATH", programs::search_path()?);
    Ok(command)
}

/// The command that imports an archive of images.
pub(super) fn import(archive: &Path) -> Result<Command> {
    let mut command = Command::new(programs::path("ctr")?);
    command.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(archive);
    Ok(command)
}

/// * `restrict_oom_score_adj`: this machine may forbid what Kubernetes wants for system pods.
/// * cgroup v1 or v2, without systemd: `SystemdCgroup = false`.
fn configuration(runc: &Path) -> String {
    format!(
        "\
version = 4
root = '/var/lib/containerd'
state = '/run/containerd'

[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE}'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['/opt/cni/bin']
conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{}'
SystemdCgroup = false
",
        runc.display()
    )
}
