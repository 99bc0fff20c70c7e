//! Clients of an API server. In: a kubeconfig. Out: a client, or answers for code that is not asynchronous. Never: a wait
//! without an end.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// Asks an API server, from code that is not asynchronous, or is but does not know of this.
#[derive(Debug)]
pub(super) struct Asker {
    file: PathBuf,
    runtime: Runtime,
}

// === impl Asker ===

impl Asker {
    /// As the user in a kubeconfig.
    pub(super) fn new(file: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self { file: file.to_owned(), runtime: runtime.context("starting a runtime to ask an API server")? })
    }

    /// Whether `/readyz` says so.
    pub(super) fn is_ready(&self) -> bool {
        let asked = self.ask(async |client| {
            let request = http::Request::get("/readyz").body(Vec::new()).context("asking for /readyz")?;
            client.request_text(request).await.context("asking for /readyz")
        });
        asked.is_ok()
    }

    /// All Nodes.
    pub(super) fn nodes(&self) -> Result<Vec<Node>> {
        self.ask(async |client| {
            let nodes = Api::<Node>::all(client).list(&ListParams::default()).await;
            Ok(nodes.context("listing the Nodes")?.items)
        })
    }

    /// Not block_on, which panics when this is called from within another runtime.
    fn ask<T, F>(&self, question: impl FnOnce(Client) -> F + Send + 'static) -> Result<T>
    where
        T: Debug + Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let file = self.file.clone();
        let (sender, answer) = mpsc::channel();
        self.runtime.spawn(async move {
            let asked = timeout(PATIENCE, async { question(from_file(&file).await?).await }).await;
            sender.send(asked.unwrap_or_else(|_| Err(anyhow!("the API server does not answer"))))
        });
        answer.recv().context("waiting for an API server's answer")?
    }
}
