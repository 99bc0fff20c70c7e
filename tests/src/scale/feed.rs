//! Where the agent of a stand takes the cluster from: a real API server, or a directory.
//!
//! In: objects. Out: the same objects for the agent. Never: an object that the agent sees half written.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::{kubernetes::ControlPlane, rundir::replace_file, synthetic::write_list};

/// How many requests are under way at once, while there are many to make.
const AT_ONCE: usize = 48;

/// Where objects are written.
pub enum Feed {
    /// A kube-apiserver with its store.
    Api(Box<Api>),
    /// A directory of manifests.
    Files(PathBuf),
}

/// A server, and who asks it.
pub struct Api {
    control_plane: ControlPlane,
    client: Client,
    runtime: Runtime,
}

// === impl Feed ===

impl Feed {
    /// An API server in the calling thread's network namespace.
    pub fn api(name: &str) -> Result<Self> {
        // What else is served has objects of its own kinds, and none here.
        let builder = ControlPlane::builder(name).api_server_flag("--watch-cache=true");
        let control_plane = builder.start()?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = runtime.block_on(control_plane.client())?;
        Ok(Self::Api(Box::new(Api { control_plane, client, runtime })))
    }

    /// A directory, which is made.
    pub fn files(directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self::Files(directory))
    }

    /// What it is, for people.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Api(_) => "kube-apiserver",
            Self::Files(_) => "directory of manifests",
        }
    }

    /// What the agent is told of it.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Api(api) => vec!["--kubeconfig".to_owned(), api.control_plane.kubeconfig().display().to_string()],
            Self::Files(directory) => vec!["--manifests".to_owned(), directory.display().to_string()],
        }
    }

    /// Writes many objects that are not there yet. `name` is that of the file, where it is one.
    pub fn fill(&self, name: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        match self {
            Self::Files(directory) => write_list(&directory.join(format!("{name}.json")), objects),
            Self::Api(api) => {
                // Namespaces and nodes before what is in them.
                let requests = stream::iter(objects).map(|object| api.create(object)).buffered(AT_ONCE);
                api.runtime.block_on(requests.try_for_each(async |()| Ok(())))
            }
        }
    }

    /// Writes one object. Returns when it is written.
    pub fn create(&self, object: &Value) -> Result<()> {
        match self {
            Self::Files(directory) => replace_file(&directory.join(file_name(object)), &object.to_string()),
            Self::Api(api) => api.runtime.block_on(api.create(object.clone())),
        }
    }

    /// Writes several objects at once.
    pub fn create_at_once(&self, objects: Vec<Value>) -> Result<()> {
        match self {
            Self::Files(_) => objects.iter().try_for_each(|object| self.create(object)),
            Self::Api(_) => self.fill("", objects.into_iter()),
        }
    }

    /// Deletes it.
    pub fn delete(&self, object: &Value) -> Result<()> {
        match self {
            Self::Files(directory) => Ok(fs::remove_file(directory.join(file_name(object)))?),
            Self::Api(api) => api.runtime.block_on(async {
                let path = format!("{}/{}?gracePeriodSeconds=0", collection(object)?, text(object, "name"));
                let request = http::Request::delete(path).body(Vec::new())?;
                api.client.request_text(request).await.map(drop).context("deleting an object")
            }),
        }
    }
}

// === impl Api ===

impl Api {
    async fn create(&self, object: Value) -> Result<()> {
        let request = http::Request::post(collection(&object)?).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(&object)?)?;
        let created = self.client.request_text(request).await;
        created.map(drop).with_context(|| format!("creating {} {}", object["kind"], object["metadata"]["name"]))
    }
}

fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The path of all objects of its kind and namespace.
fn collection(object: &Value) -> Result<String> {
    let namespace = text(object, "namespace");
    Ok(match object["kind"].as_str().unwrap_or_default() {
        "Node" => "/api/v1/nodes".to_owned(),
        "Namespace" => "/api/v1/namespaces".to_owned(),
        "Pod" => format!("/api/v1/namespaces/{namespace}/pods"),
        "NetworkPolicy" => format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
        other => return Err(anyhow!("objects of kind {other} are not fed to agents")),
    })
}

fn file_name(object: &Value) -> String {
    format!(
        "{}-{}-{}.json",
        object["kind"].as_str().unwrap_or_default(),
        text(object, "namespace"),
        text(object, "name")
    )
    .to_lowercase()
}
