//! Clients of an API server. In: a kubeconfig. Out: a client, or whether the server is ready. Never: a wait; callers know
//! how long they have.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// A client of the server and user in a kubeconfig. It belongs to the runtime that this is awaited in.
///
/// # Errors
/// The file cannot be read, or makes no sense.
pub async fn from_file(file: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let config = config.with_context(|| format!("understanding {}", file.display()))?;
    Client::try_from(config).with_context(|| format!("making a client from {}", file.display()))
}

/// Asks a server whether it is ready, from code that is not asynchronous, or is but does not know of this.
#[derive(Debug)]
pub(super) struct Probe {
    file: std::path::PathBuf,
    runtime: Runtime,
}

// === impl Probe ===

impl Probe {
    pub(super) fn new(file: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self { file: file.to_owned(), runtime: runtime.context("starting a runtime to ask an API server")? })
    }

    /// Whether `/readyz` says so.
    pub(super) fn is_ready(&self) -> bool {
        let file = self.file.clone();
        let (sender, answer) = std::sync::mpsc::channel();
        // Not block_on, which panics when this is called from within another runtime.
        self.runtime.spawn(async move { sender.send(ask(&file).await.is_ok()) });
        answer.recv().unwrap_or(false)
    }
}

async fn ask(file: &Path) -> Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new()).context("asking for /readyz")?;
    let client = from_file(file).await?;
    timeout(Duration::from_secs(5), client.request_text(request)).await.map_err(|_| anyhow!("no answer"))??;
    Ok(())
}
