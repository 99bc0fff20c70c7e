//! Names that a lab gives to what it makes. In: the lab's, nodes' and pods' names. Out: names of namespaces and
//! directories from which the lab can be told again. Never: two objects with one name, or two labs that share one.
//!
//! Kubernetes allows letters, digits, dashes and dots in node and pod names, and no underscore; labs have letters,
//! digits and underscores, and no dash. So `mgy-LAB-NODE`, `mgy-LAB-NAMESPACE_POD` and `mgy-LAB-_underlay` cannot meet.

use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail};
pub use margay_loader::object::PodName;
use serde::{Deserialize, Serialize};

/// Below this each lab has its directory.
pub const RUN: &str = "/run/margay-lab";

/// The name of a lab: 1 to 40 lower-case letters, digits and underscores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

// === impl LabName ===

impl LabName {
    /// What the names of all its namespaces begin with.
    pub fn prefix(&self) -> String {
        format!("mgy-{}-", self.0)
    }

    /// The network namespace of a node.
    pub fn node(&self, node: &str) -> String {
        format!("{}{node}", self.prefix())
    }

    /// The network namespace of a pod.
    pub fn pod(&self, pod: &PodName) -> String {
        format!("{}{}_{}", self.prefix(), pod.namespace, pod.name)
    }

    /// The network namespace of the bridge between the nodes.
    pub fn underlay(&self) -> String {
        format!("{}_underlay", self.prefix())
    }

    /// The lab's directory.
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(RUN).join(&self.0)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if text.is_empty() || text.len() > 40 || !text.chars().all(fits) {
            bail!("{text:?} cannot be the name of a lab: use 1 to 40 lower-case letters, digits and underscores");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LabName {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Reads a pod as kubectl names it: `NAMESPACE/NAME`, or `NAME` in the namespace `default`.
///
/// # Errors
/// It is no such text.
pub fn pod_name(text: &str) -> Result<PodName> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let pod = PodName::new(namespace, name);
    check_pod_name(&pod)?;
    Ok(pod)
}

/// Whether a namespace can be named after the pod. Manifests may hold what no API server would accept.
///
/// # Errors
/// The name is empty, too long, or has characters that Kubernetes does not allow.
pub fn check_pod_name(pod: &PodName) -> Result<()> {
    [&pod.namespace, &pod.name].into_iter().try_for_each(|part| check(part)).with_context(|| format!("pod {pod}"))
}

/// Whether a namespace can be named after the node.
///
/// # Errors
/// As for [`check_pod_name`].
pub fn check_node_name(node: &str) -> Result<()> {
    check(node).with_context(|| format!("node {node}"))
}

/// RFC 1123 subdomains, as far as it matters for files.
fn check(part: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if part.is_empty() || part.len() > 253 || part.starts_with('.') || !part.chars().all(fits) {
        bail!("{part:?} cannot be a name: use 1 to 253 lower-case letters, digits, dashes and dots");
    }
    Ok(())
}

/// A file name for something of a node on bpffs, which refuses dots.
pub fn without_dots(node: &str) -> String {
    node.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_things_differ() {
        let lab: LabName = "a_b".parse().unwrap();
        let names = [
            lab.node("default-web"),
            lab.pod(&PodName::new("default", "web")),
            lab.underlay(),
            lab.node("underlay"),
            "a".parse::<LabName>().unwrap().node("b-c"),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(!names[4].starts_with(&lab.prefix()));
    }

    #[test]
    fn labs_with_dashes_slashes_or_capitals_are_refused() {
        for bad in ["", "a-b", "A", "a/b", "..", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pods_are_read_as_kubectl_writes_them() {
        assert_eq!(pod_name("shop/web-1").unwrap(), PodName::new("shop", "web-1"));
        assert_eq!(pod_name("web").unwrap(), PodName::new("default", "web"));
        for bad in ["", "/", "a/", "/a", "a/b/c", "a/..", "A/b"] {
            assert!(pod_name(bad).is_err(), "{bad:?}");
        }
    }
}
