//! NetworkPolicies as they are written; whether they make sense, the model decides.
//!
//! In: a `networking.k8s.io/v1` NetworkPolicy. Out: its fields, and where they are not even fields of a NetworkPolicy, why and
//! as much as must be known to isolate the pods that it is about. Never: a policy that is passed over because it cannot be
//! read: it would leave open what somebody wanted closed. So unlike other kinds it has no unreadable form, and a field that no
//! NetworkPolicy has (`form` for `from`) is a fault: without it the rest would allow more than was meant.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PolicyName;

/// A NetworkPolicy as both sources read it.
#[derive(Clone, Debug, Default, Resource, Serialize, Deserialize)]
#[resource(inherit = "NetworkPolicy")]
pub struct PolicyManifest {
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`, whatever it is.
    #[serde(default)]
    pub spec: Value,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyObject {
    /// Namespace and name.
    pub name: PolicyName,
    /// `spec`; where that has a fault, only which pods are to be isolated in which directions.
    pub spec: PolicySpec,
    /// Why `spec` is none of a NetworkPolicy.
    pub fault: Option<String>,
}

/// `spec` of a NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// `podSelector`; none selects like an empty one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<SelectorSpec>,
    /// `policyTypes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<String>>,
    /// `ingress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressSpec>>,
    /// `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressSpec>>,
}

/// A rule of `ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngressSpec {
    /// `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<PeerSpec>>,
    /// `ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortSpec>>,
}

/// A rule of `egress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSpec {
    /// `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<PeerSpec>>,
    /// `ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortSpec>>,
}

/// One of `from` or `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerSpec {
    /// `podSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<SelectorSpec>,
    /// `namespaceSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<SelectorSpec>,
    /// `ipBlock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlockSpec>,
}

/// `ipBlock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpBlockSpec {
    /// `cidr`.
    pub cidr: String,
    /// `except`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

/// One of `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSpec {
    /// `protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NumberOrName>,
    /// `endPort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i64>,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NumberOrName {
    /// A number, which need not be a port's.
    Number(i64),
    /// The name of a container's port.
    Name(String),
}

/// A LabelSelector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SelectorSpec {
    /// `matchLabels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// `matchExpressions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<ExpressionSpec>>,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpressionSpec {
    /// `key`.
    pub key: String,
    /// `operator`.
    pub operator: String,
    /// `values`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

// === impl PolicyObject ===

impl From<PolicyManifest> for PolicyObject {
    fn from(policy: PolicyManifest) -> Self {
        let PolicyManifest { metadata, spec } = policy;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = PolicyName::new(namespace, metadata.name.unwrap_or_default());
        match Option::<PolicySpec>::deserialize(&spec) {
            Ok(spec) => Self { name, spec: spec.unwrap_or_default(), fault: None },
            Err(error) => Self { name, spec: PolicySpec::readable_part(&spec), fault: Some(error.to_string()) },
        }
    }
}

// === impl PolicySpec ===

/// `policyTypes`: what comes in.
pub const INGRESS: &str = "Ingress";
/// `policyTypes`: what goes out.
pub const EGRESS: &str = "Egress";

impl PolicySpec {
    /// Which pods a faulty `spec` is about, all of the namespace if that cannot be read, and in which directions, both if that
    /// cannot be read.
    fn readable_part(spec: &Value) -> Self {
        let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let types = match (&spec["policyTypes"], &spec["egress"]) {
            (types, egress) if is_empty(types) && is_empty(egress) => Some(vec![INGRESS.to_owned()]),
            (types, _) if is_empty(types) => None,
            (types, _) => Vec::<String>::deserialize(types).ok(),
        };
        Self {
            pod_selector: Option::<SelectorSpec>::deserialize(&spec["podSelector"]).unwrap_or_default(),
            policy_types: Some(types.unwrap_or_else(|| vec![INGRESS.to_owned(), EGRESS.to_owned()])),
            ingress: None,
            egress: None,
        }
    }
}
