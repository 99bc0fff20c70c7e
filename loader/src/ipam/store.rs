//! Where the objects are: the Kubernetes API, or something that behaves like it.
//!
//! In and out: objects with their `metadata.resourceVersion`. Never: a write over somebody else's. [`Store::update`] and
//! [`Store::delete`] carry the version that was read, and the other side compares before it writes.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for an object's metadata alone (Kubernetes, "Receiving resources as Tables", and the same for metadata).
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The last parameter of a write (Kubernetes, "Field validation").
const UNCHECKED: &str = "&fieldValidation=Ignore";

/// An object of a kind that is known at build time.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// Why a call came to nothing. The text names the object and what was being done to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is an object of the name already.
    #[error("{0} exists already")]
    Exists(String),
    /// The object has changed or gone since it was read.
    #[error("{0} has changed since it was read")]
    Conflict(String),
    /// The API server cannot be reached, or cannot answer now. A write may have happened.
    #[error("{what}: {why}")]
    Unreachable {
        /// What was being done to what.
        what: String,
        /// What happened.
        why: String,
    },
    /// The API server will not do it.
    #[error("{what}: {why}")]
    Refused {
        /// What was being done to what.
        what: String,
        /// What it says.
        why: String,
    },
}

/// Objects that are not in a namespace.
pub trait Store: Clone + Send + Sync + 'static {
    /// One object.
    fn get<K: Object>(&self, name: &str) -> impl Future<Output = Result<Option<K>, StoreError>> + Send;

    /// All objects of a kind, in all namespaces.
    fn list<K: Object>(&self) -> impl Future<Output = Result<Vec<K>, StoreError>> + Send;

    /// Makes an object.
    fn create<K: Object>(&self, object: &K) -> impl Future<Output = Result<K, StoreError>> + Send;

    /// Writes an object if it is still as it was read.
    fn update<K: Object>(&self, object: &K) -> impl Future<Output = Result<K, StoreError>> + Send;

    /// Deletes an object if it is still as it was read. One that is gone already is no error.
    fn delete<K: Object>(&self, object: &K) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Sets annotations of an object and leaves all else as it is; `None` removes one.
    fn annotate<K: Object>(
        &self,
        name: &str,
        annotations: &[(&str, Option<String>)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// One object of a namespace.
    fn get_in<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<K>, StoreError>> + Send;
}

/// The Kubernetes API.
#[derive(Clone)]
pub struct KubeStore {
    client: Client,
}

// === impl KubeStore ===

impl KubeStore {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api<K: Object>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Sends an object, and returns it with the metadata that it has got. All else is as it was sent: none of these kinds has
    /// defaults. So the server need not send it back, and as it is sent by types, it need not look for misspelt fields.
    async fn write<K: Object>(
        &self,
        object: &K,
        request: impl FnOnce(&Request, Vec<u8>) -> Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<K, kube::Error> {
        let data = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = request(&Request::new(K::url_path(&(), None)), data).map_err(kube::Error::BuildRequest)?;
        let (mut parts, data) = request.into_parts();
        parts.headers.insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA_ONLY));
        let uri = format!("{}{UNCHECKED}", parts.uri);
        parts.uri = uri.parse().map_err(|e: http::uri::InvalidUri| kube::Error::HttpError(e.into()))?;
        let answer: PartialObjectMeta<K> = self.client.request(http::Request::from_parts(parts, data)).await?;
        let mut written = object.clone();
        *written.meta_mut() = answer.metadata;
        Ok(written)
    }
}

impl Store for KubeStore {
    async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, StoreError> {
        call(|| doing::<K>("reading", name), self.api::<K>().get_opt(name)).await
    }

    async fn list<K: Object>(&self) -> Result<Vec<K>, StoreError> {
        let all = call(|| listing::<K>(), self.api::<K>().list(&ListParams::default())).await?;
        Ok(all.items)
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, StoreError> {
        let what = || doing::<K>("creating", &object.name_any());
        call(what, self.write(object, |api, data| api.create(&PostParams::default(), data))).await
    }

    async fn update<K: Object>(&self, object: &K) -> Result<K, StoreError> {
        let name = object.name_any();
        let what = || doing::<K>("updating", &name);
        if object.resource_version().is_none() {
            return Err(StoreError::Refused { what: what(), why: "it was never read".to_owned() });
        }
        call(what, self.write(object, |api, data| api.replace(&name, &PostParams::default(), data))).await
    }

    async fn delete<K: Object>(&self, object: &K) -> Result<(), StoreError> {
        let name = object.name_any();
        let as_read = Preconditions { resource_version: object.resource_version(), uid: object.uid() };
        let params = DeleteParams::default().preconditions(as_read);
        let api = self.api::<K>();
        let delete = async { api.delete(&name, &params).await.map(drop) };
        match call(|| doing::<K>("deleting", &name), gone_is_fine(delete)).await {
            Err(StoreError::Exists(what)) => Err(StoreError::Conflict(what)),
            other => other,
        }
    }

    async fn annotate<K: Object>(&self, name: &str, annotations: &[(&str, Option<String>)]) -> Result<(), StoreError> {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
        let patch = serde_json::json!({ "metadata": { "annotations": annotations } });
        let api = self.api::<K>();
        let params = PatchParams::default();
        call(|| doing::<K>("annotating", name), api.patch_metadata(name, &params, &Patch::Merge(&patch))).await?;
        Ok(())
    }

    async fn get_in<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, StoreError> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        call(|| doing::<K>("reading", &format!("{namespace}/{name}")), api.get_opt(name)).await
    }
}

/// Makes a call, and says of its failure what it means here.
async fn call<T>(
    what: impl Fn() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    let Ok(result) = tokio::time::timeout(CALL_TIMEOUT, call).await else {
        let why = format!("no answer from the API server within {} s", CALL_TIMEOUT.as_secs());
        return Err(StoreError::Unreachable { what: what(), why });
    };
    result.map_err(|error| meaning(what(), error))
}

fn meaning(what: String, error: kube::Error) -> StoreError {
    let status = match error {
        kube::Error::Api(status) => status,
        other => return StoreError::Unreachable { what, why: chain(&other) },
    };
    let why = status.message.clone();
    match status.code {
        409 if status.is_already_exists() => StoreError::Exists(what),
        // An object that went while it was being written has changed, too.
        404 | 409 => StoreError::Conflict(what),
        429 | 500..=599 => StoreError::Unreachable { what, why },
        _ => StoreError::Refused { what, why },
    }
}

/// An error with all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

async fn gone_is_fine(delete: impl Future<Output = Result<(), kube::Error>>) -> Result<(), kube::Error> {
    match delete.await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

fn doing<K: Object>(verb: &str, name: &str) -> String {
    format!("{verb} {} {name}", K::kind(&()))
}

fn listing<K: Object>() -> String {
    format!("listing {}", K::plural(&()))
}
