//! kube-controller-manager and kube-scheduler. In: a control plane whose API server is ready: before that they may not read
//! what they need, and exit. Out: two running programs. Never: a second one of either; there is no leader election.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{
    cluster::POD_CIDR,
    control_plane::{ControlPlane, SERVICES},
    programs,
};

/// Starts both.
///
/// # Errors
/// They run already, or cannot be started.
pub(super) fn start(control_plane: &ControlPlane) -> Result<()> {
    let url = control_plane.url_for_nodes();
    for (name, arguments) in
        [("kube-controller-manager", controller_manager(control_plane)), ("kube-scheduler", Vec::new())]
    {
        let kubeconfig = control_plane.kubeconfig_at(&url, &format!("system:{name}"), None)?;
        let mut command = command(name, &kubeconfig)?;
        command.args(arguments);
        control_plane.start_daemon(name, command)?;
    }
    Ok(())
}

/// What both have in common.
fn command(name: &str, kubeconfig: &Path) -> Result<Command> {
    let mut command = Command::new(programs::path(name)?);
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command.args(["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"]);
    Ok(command)
}

fn controller_manager(control_plane: &ControlPlane) -> Vec<String> {
    let (authority, keys) = (control_plane.authority(), control_plane.token_keys());
    vec![
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={POD_CIDR}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--use-service-account-credentials".to_owned(),
        format!("--service-account-private-key-file={}", keys.private.display()),
        format!("--root-ca-file={}", authority.certificate().display()),
        format!("--cluster-signing-cert-file={}", authority.certificate().display()),
        format!("--cluster-signing-key-file={}", authority.key().display()),
    ]
}
