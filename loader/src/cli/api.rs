//! How a command that is not the agent reaches the Kubernetes API: as kubectl does.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::source::kube::{Access, ApiConfig, Patience};

/// Where the API server is.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// Reach the Kubernetes API as the current context of this file says [default: the service account of the pod that
    /// the command runs in; elsewhere $KUBECONFIG or ~/.kube/config, as kubectl does]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The address of the API server, in place of the kubeconfig's or the pod's own (KUBERNETES_SERVICE_HOST and _PORT)
    #[arg(long, value_name = "HOST:PORT")]
    kubernetes_api: Option<String>,
}

// === impl ApiArgs ===

impl ApiArgs {
    /// What the source of the agent would be given.
    ///
    /// # Errors
    /// Nothing says where the API server is.
    pub(super) fn config(self) -> Result<ApiConfig> {
        let Self { kubeconfig, kubernetes_api: address } = self;
        let in_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let access = match kubeconfig {
            Some(file) => Access::Kubeconfig(file),
            None if in_pod => Access::InCluster,
            None => match kubectls_file() {
                Some(file) => Access::Kubeconfig(file),
                None => bail!("where is the API server? Give --kubeconfig FILE, or set KUBECONFIG"),
            },
        };
        Ok(ApiConfig { access, address, patience: Patience::default() })
    }
}

/// The first file of `$KUBECONFIG`, or `~/.kube/config` if there is one.
fn kubectls_file() -> Option<PathBuf> {
    if let Some(files) = env::var_os("KUBECONFIG")
        && let Some(first) = env::split_paths(&files).find(|file| !file.as_os_str().is_empty())
    {
        return Some(first);
    }
    let file = PathBuf::from(env::var_os("HOME")?).join(".kube/config");
    file.exists().then_some(file)
}
