//! How to reach the API server: where it is, whom to trust, and who we are.
//!
//! In: a kubeconfig, or a pod's service account, and perhaps an address. Out: a client, made anew whenever the old one stopped
//! working, so that new certificates and tokens are found without a restart. Never: a Service, unless its address is all
//! that was given: the agent has to run before any Service works.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::failure::{Failure, Reason};

/// Where the API server is, and how patient to be with it.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Whom to trust, and who we are.
    pub access: Access,
    /// `HOST:PORT` of the server, in place of the one that comes with `access`. Its certificate must name it.
    pub address: Option<String>,
    /// How long to wait for it.
    pub patience: Patience,
}

/// Whom to trust, and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A kubeconfig's current context.
    Kubeconfig(PathBuf),
    /// The service account of the pod that we run in, and the server that `KUBERNETES_SERVICE_HOST` and `_PORT` name.
    InCluster,
}

/// How long to wait for an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, and for the beginning of an answer.
    pub answer: Duration,
    /// For the next byte of an answer, and for the next object of a list.
    pub list: Duration,
    /// For the next event of a watch. A server sends a bookmark every minute to those who hear nothing else.
    pub silence: Duration,
}

// === impl Patience ===

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(15), list: Duration::from_secs(30), silence: Duration::from_secs(75) }
    }
}

// === impl ApiConfig ===

impl ApiConfig {
    /// The server, as people know it.
    pub(super) fn server(&self) -> String {
        match (&self.address, &self.access) {
            (Some(address), _) => format!("Kubernetes API at {address}"),
            (None, Access::Kubeconfig(file)) => format!("Kubernetes API of {}", file.display()),
            (None, Access::InCluster) => match (env::var(HOST), env::var(PORT)) {
                (Ok(host), Ok(port)) => format!("Kubernetes API at {host}:{port}"),
                _ => "Kubernetes API".to_owned(),
            },
        }
    }

    /// A client for others than the source. No connection is made yet.
    ///
    /// # Errors
    /// The credentials cannot be read; says why.
    pub async fn connect(&self) -> Result<Client, String> {
        self.client().await.map_err(|failure| format!("{}: {}", self.server(), failure.said))
    }

    /// Reads the credentials, and makes a client with them. No connection is made yet.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        let mut config = match &self.access {
            Access::Kubeconfig(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| setup(&error))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| setup(&error))?
            }
            // The address is replaced below.
            Access::InCluster if self.address.is_some() => Config::incluster_dns().map_err(|error| setup(&error))?,
            Access::InCluster => Config::incluster_env().map_err(|error| setup(&error))?,
        };
        if let Some(address) = &self.address {
            let scheme = config.cluster_url.scheme_str().unwrap_or("https").to_owned();
            let url = format!("{scheme}://{address}");
            config.cluster_url = url.parse().map_err(|error| Failure::new(Reason::Setup, format!("{url}: {error}")))?;
        }
        let Patience { answer, list, silence } = self.patience;
        config.connect_timeout = Some(answer);
        config.read_timeout = Some(answer.max(list).max(silence));
        config.write_timeout = Some(answer);
        config.reset_reader_on_write = true;
        // How often to try again is decided in one place, and not here.
        config.default_retry = false;
        with(config).map_err(|error| Failure::of(&error))
    }
}

/// What `Client::try_from` makes, but each request leaves at once. kube leaves Nagle's algorithm on: the second half of a request
/// that is written in two waits until the server has acknowledged the first, and a server that has nothing to say yet takes
/// forty milliseconds over that (tcp(7), `TCP_NODELAY`; linux/include/net/tcp.h, `TCP_DELACK_MIN`).
fn with(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// What Kubernetes puts into every pod's environment, and an administrator may set by hand.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

fn setup(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut said = error.to_string();
    if let Some(cause) = error.source() {
        said = format!("{said}: {cause}");
    }
    Failure::new(Reason::Setup, said)
}
