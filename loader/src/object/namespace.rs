//! Namespaces: their labels, by which policies choose them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize};

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

// === impl NamespaceObject ===

impl From<Namespace> for NamespaceObject {
    fn from(namespace: Namespace) -> Self {
        let Namespace { metadata, .. } = namespace;
        Self { labels: metadata.labels.unwrap_or_default(), name: metadata.name.unwrap_or_default() }
    }
}
