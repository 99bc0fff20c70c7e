//! All objects that NetworkPolicy depends on: [`Cluster`].
//!
//! In: objects of the API's own types, or manifests. Out: the objects as they are, and the few fields the oracle reads from
//! their metadata. Never: a default filled in silently; each stands in a function here that says where it comes from.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::flow::Name;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// A cluster, as far as policies see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Its machines.
    pub nodes: Vec<Node>,
    /// Its namespaces; those without an object have no labels of their own.
    pub namespaces: Vec<Namespace>,
    /// Its pods, finished ones included.
    pub pods: Vec<Pod>,
    /// Its policies.
    pub policies: Vec<NetworkPolicy>,
}

// === impl Cluster ===

impl Cluster {
    /// Reads YAML manifests. Other kinds than the four are passed over.
    ///
    /// # Errors
    /// A document is no object of its kind, or has a field that its kind does not have.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("reading YAML")?;
        let mut cluster = Self::default();
        for document in documents.iter().filter(|d| !d.is_null()) {
            match document["kind"].as_str().context("a manifest without a kind")? {
                "Node" => cluster.nodes.push(object(document)?),
                "Namespace" => cluster.namespaces.push(object(document)?),
                "Pod" => cluster.pods.push(object(document)?),
                "NetworkPolicy" => cluster.policies.push(object(document)?),
                _ => {}
            }
        }
        Ok(cluster)
    }

    /// Writes YAML manifests: what [`Cluster::from_yaml`] reads, and what a lab can be made of.
    ///
    /// # Errors
    /// None that a cluster can cause; serialisation is fallible as such.
    pub fn to_yaml(&self) -> Result<String> {
        let Self { nodes, namespaces, pods, policies } = self;
        let mut documents = Vec::new();
        documents.extend(nodes.iter().map(serde_saphyr::to_string));
        documents.extend(namespaces.iter().map(serde_saphyr::to_string));
        documents.extend(pods.iter().map(serde_saphyr::to_string));
        documents.extend(policies.iter().map(serde_saphyr::to_string));
        let documents: Vec<String> = documents.into_iter().collect::<Result<_, _>>().context("writing YAML")?;
        Ok(documents.join("\n---\n"))
    }

    /// A namespace's labels. The API server gives each the label `kubernetes.io/metadata.name`
    /// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name>).
    pub(super) fn namespace_labels(&self, namespace: &str) -> Labels {
        let object = self.namespaces.iter().find(|n| n.metadata.name.as_deref() == Some(namespace));
        let mut labels = object.map(|o| labels(&o.metadata)).unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        labels
    }
}

/// The name of a namespaced object; kubectl's default namespace is `default`.
pub fn name_of(metadata: &ObjectMeta) -> Name {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    Name::new(namespace, metadata.name.as_deref().unwrap_or_default())
}

pub(super) fn labels(metadata: &ObjectMeta) -> Labels {
    metadata.labels.clone().unwrap_or_default()
}

/// Reads one object, and refuses misspelt fields, which the types would pass over.
fn object<T: DeserializeOwned + Serialize>(document: &Value) -> Result<T> {
    let kind = document["kind"].as_str().unwrap_or("object");
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let object: T = serde_json::from_value(document.clone()).with_context(|| format!("reading {kind} {name}"))?;
    let known = serde_json::to_value(&object)?;
    let unknown = lost_fields("", document, &known);
    ensure!(unknown.is_empty(), "{kind} {name} has no field {}", unknown.join(", "));
    Ok(object)
}

/// The paths of what is in `before` and not in `after`, apart from nulls.
fn lost_fields(path: &str, before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Null, _) => Vec::new(),
        (Value::Object(before), Value::Object(after)) => {
            let null = Value::Null;
            let pairs = before.iter().map(|(key, value)| (key, value, after.get(key).unwrap_or(&null)));
            pairs.flat_map(|(key, value, after)| lost_fields(&format!("{path}.{key}"), value, after)).collect()
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            let pairs = before.iter().zip(after).enumerate();
            pairs.flat_map(|(i, (before, after))| lost_fields(&format!("{path}[{i}]"), before, after)).collect()
        }
        (_, Value::Null | Value::Array(_)) => vec![path.to_owned()],
        _ => Vec::new(),
    }
}

/// A pod's containers may each name ports. See [`named_ports`].
pub struct NamedPort<'a> {
    /// Its name.
    pub name: &'a str,
    /// `TCP`, `UDP` or `SCTP`; TCP unless it is said.
    pub protocol: &'a str,
    /// Its number.
    pub number: i32,
}

/// The named ports of a pod's containers, and of init containers that keep running beside them (sidecars).
pub fn named_ports(pod: &Pod) -> Vec<NamedPort<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some(NamedPort { name: port.name.as_deref()?, protocol, number: port.container_port })
    });
    named.collect()
}
