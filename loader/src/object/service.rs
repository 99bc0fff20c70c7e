//! Services and their EndpointSlices, as far as a ClusterIP's backends follow from them.
//!
//! In: `v1` Services and `discovery.k8s.io/v1` EndpointSlices. Out: their fields, text as the objects have it; the model reads it.
//! Never: what is another proxy's or nobody's: of what is headless or labelled for another proxy only the name is left.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use super::names::{ServiceName, SliceName};

/// The label of an EndpointSlice that names its Service (discovery/v1, `LabelServiceName`).
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Labels by which a Service or slice is none of a ClusterIP proxy's business (core/v1, `IsHeadlessService`;
/// kube-proxy, `LabelServiceProxyName`).
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"];
/// `spec.clusterIP` of a Service without one.
pub const HEADLESS: &str = "None";

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    /// Namespace and name.
    pub name: ServiceName,
    /// Who answers for it.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`, or `spec.clusterIP` alone.
    pub cluster_ips: Vec<String>,
    /// `spec.ports`.
    pub ports: Vec<PortObject>,
    /// `spec.sessionAffinity`.
    pub affinity: Option<String>,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub affinity_timeout_secs: Option<i32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: Option<String>,
}

/// Who answers for a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// It has, or should have, a ClusterIP.
    #[default]
    ClusterIp,
    /// It is headless, a name for something outside, or another proxy's.
    NotOurs,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortObject {
    /// `name`; empty where there is none.
    pub name: Box<str>,
    /// `protocol`.
    pub protocol: Option<Box<str>>,
    /// `port`.
    pub port: Option<i32>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SliceObject {
    /// Namespace and name.
    pub name: SliceName,
    /// The Service, in the same namespace.
    pub service: Option<String>,
    /// `ports`. Names of containers' ports are resolved already.
    pub ports: Vec<PortObject>,
    /// `endpoints`.
    pub endpoints: Vec<EndpointObject>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointObject {
    /// The first of `addresses`; the others mean nothing (discovery/v1, `Endpoint.Addresses`).
    pub address: Box<str>,
    /// What it is fit for.
    pub state: EndpointState,
    /// `nodeName`.
    pub node: Option<Box<str>>,
    /// `zone`.
    pub zone: Option<Box<str>>,
}

/// What an endpoint is fit for. The better ones first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndpointState {
    /// `ready`, or nobody says anything else.
    #[default]
    Ready,
    /// About to end and no longer ready, but still serving: for when there is no other.
    Draining,
}

// === impl ServiceObject ===

impl From<Service> for ServiceObject {
    fn from(service: Service) -> Self {
        let Service { metadata, spec, .. } = service;
        let spec = spec.unwrap_or_default();
        let all = spec.cluster_ips.filter(|ips| !ips.is_empty());
        let cluster_ips: Vec<String> = all.or(spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default();
        let outside = spec.type_.as_deref() == Some("ExternalName");
        let headless = cluster_ips.iter().any(|ip| ip == HEADLESS);
        let name = ServiceName::new(namespace(&metadata), metadata.name.clone().unwrap_or_default());
        if outside || headless || is_not_ours(&metadata) {
            return Self { name, kind: ServiceKind::NotOurs, ..Self::default() };
        }
        Self {
            name,
            kind: ServiceKind::ClusterIp,
            cluster_ips: cluster_ips.into_iter().filter(|ip| !ip.is_empty()).collect(),
            ports: spec.ports.into_iter().flatten().map(PortObject::from).collect(),
            affinity: spec.session_affinity,
            affinity_timeout_secs: spec.session_affinity_config.and_then(|config| config.client_ip?.timeout_seconds),
            internal_traffic_policy: spec.internal_traffic_policy,
        }
    }
}

// === impl PortObject ===

impl From<ServicePort> for PortObject {
    fn from(port: ServicePort) -> Self {
        let ServicePort { name, protocol, port, .. } = port;
        Self { name: name.unwrap_or_default().into(), protocol: protocol.map(Into::into), port: Some(port) }
    }
}

impl From<EndpointPort> for PortObject {
    fn from(port: EndpointPort) -> Self {
        let EndpointPort { name, protocol, port, .. } = port;
        Self { name: name.unwrap_or_default().into(), protocol: protocol.map(Into::into), port }
    }
}

// === impl SliceObject ===

impl From<EndpointSlice> for SliceObject {
    fn from(slice: EndpointSlice) -> Self {
        let EndpointSlice { metadata, address_type, endpoints, ports } = slice;
        let name = SliceName::new(namespace(&metadata), metadata.name.clone().unwrap_or_default());
        if is_not_ours(&metadata) || address_type == "FQDN" {
            return Self { name, ..Self::default() };
        }
        Self {
            name,
            service: metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME).cloned()),
            ports: ports.into_iter().flatten().map(PortObject::from).collect(),
            endpoints: endpoints.into_iter().filter_map(EndpointObject::read).collect(),
        }
    }
}

// === impl EndpointObject ===

impl EndpointObject {
    /// `None` for one that is fit for nothing, or has no address.
    fn read(endpoint: Endpoint) -> Option<Self> {
        let Endpoint { addresses, conditions, node_name, zone, .. } = endpoint;
        let conditions = conditions.unwrap_or_default();
        // What is not said means yes, yes as far as it is ready, and no (discovery/v1, `EndpointConditions`).
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let state = match (ready, serving && conditions.terminating.unwrap_or(false)) {
            (true, _) => EndpointState::Ready,
            (false, true) => EndpointState::Draining,
            (false, false) => return None,
        };
        let address = addresses.into_iter().next()?.into();
        Some(Self { address, state, node: node_name.map(Into::into), zone: zone.map(Into::into) })
    }
}

fn namespace(meta: &ObjectMeta) -> String {
    meta.namespace.clone().unwrap_or_else(|| "default".to_owned())
}

fn is_not_ours(meta: &ObjectMeta) -> bool {
    let labels: Option<&BTreeMap<String, String>> = meta.labels.as_ref();
    labels.is_some_and(|labels| NOT_OURS.iter().any(|label| labels.contains_key(*label)))
}
