//! The few fields of Kubernetes and Calico objects that a network needs, as plain values.
//!
//! In: objects of the Kubernetes API, from manifests ([`parse`]) or from a watch. Out: [`Object`]s and, by name, [`Objects`];
//! both are small enough to be written down as the last good state. Never: a file, a clock, a judgement: whether an
//! address is an address, and whose it is, the model decides, because only it can say which object is to blame.

pub mod block;
mod held;
mod names;
pub mod namespace;
pub mod node;
pub mod parse;
pub mod pod;
pub mod policy;
pub mod pool;
pub mod service;
mod shared;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use block::BlockObject;
pub use held::Held;
pub use names::{PolicyName, ServiceName, SliceName};
pub use namespace::NamespaceObject;
pub use node::NodeObject;
pub use pod::{
    CALICO_HW_ADDR, CALICO_IP_ADDRS, CALICO_IPV4_POOLS, CALICO_IPV6_POOLS, NamedPort, PodName, PodObject, PodWishes,
    Protocol, Standing,
};
pub use policy::PolicyObject;
pub use pool::PoolObject;
pub use service::{ServiceObject, SliceObject};
pub use shared::{Shared, SharedLabels, SharedPorts};
pub use text::Text;

/// An object of a kind that Margay knows, held so that others can hold it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// `v1` Node.
    Node(Held<NodeObject>),
    /// `v1` Pod.
    Pod(Held<PodObject>),
    /// `crd.projectcalico.org/v1` (or `projectcalico.org/v3`) BlockAffinity.
    Block(Held<BlockObject>),
    /// `crd.projectcalico.org/v1` (or `projectcalico.org/v3`) IPPool.
    Pool(Held<PoolObject>),
    /// `v1` Namespace.
    Namespace(Held<NamespaceObject>),
    /// `networking.k8s.io/v1` NetworkPolicy.
    Policy(Held<PolicyObject>),
    /// `v1` Service.
    Service(Held<ServiceObject>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    Slice(Held<SliceObject>),
}

/// What an object is called. Its text is what kubectl would say: `Pod default/web-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectName {
    /// A Node, by `metadata.name`.
    Node(String),
    /// A Pod.
    Pod(PodName),
    /// A BlockAffinity, by `metadata.name`.
    Block(String),
    /// An IPPool, by `metadata.name`.
    Pool(String),
    /// A Namespace, by `metadata.name`.
    Namespace(String),
    /// A NetworkPolicy.
    Policy(PolicyName),
    /// A Service.
    Service(ServiceName),
    /// An EndpointSlice.
    Slice(SliceName),
}

/// All objects of a cluster, each once. Whoever wants to keep them as they are now holds each of them: nobody changes one that is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Held<NodeObject>>,
    /// Pods by name.
    pub pods: BTreeMap<PodName, Held<PodObject>>,
    /// BlockAffinities by name.
    pub blocks: BTreeMap<String, Held<BlockObject>>,
    /// IPPools by name.
    pub pools: BTreeMap<String, Held<PoolObject>>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Held<NamespaceObject>>,
    /// NetworkPolicies by name.
    pub policies: BTreeMap<PolicyName, Held<PolicyObject>>,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Held<ServiceObject>>,
    /// EndpointSlices by name.
    pub slices: BTreeMap<SliceName, Held<SliceObject>>,
}

// === impl Object ===

impl Object {
    /// What it is called.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Node(node) => ObjectName::Node(node.name.clone()),
            Self::Pod(pod) => ObjectName::Pod(pod.name.clone()),
            Self::Block(block) => ObjectName::Block(block.name.clone()),
            Self::Pool(pool) => ObjectName::Pool(pool.name.clone()),
            Self::Namespace(namespace) => ObjectName::Namespace(namespace.name.clone()),
            Self::Policy(policy) => ObjectName::Policy(policy.name.clone()),
            Self::Service(service) => ObjectName::Service(service.name.clone()),
            Self::Slice(slice) => ObjectName::Slice(slice.name.clone()),
        }
    }
}

/// An object of each kind is one that is held.
macro_rules! held {
    ($($kind:ident: $object:ty),*) => {$(
        impl From<$object> for Object {
            fn from(object: $object) -> Self {
                Self::$kind(object.into())
            }
        }
    )*};
}

held!(
    Node: NodeObject, Pod: PodObject, Block: BlockObject, Pool: PoolObject, Namespace: NamespaceObject, Policy: PolicyObject,
    Service: ServiceObject, Slice: SliceObject
);

// === impl ObjectName ===

impl ObjectName {
    /// The pod's name, if it is a pod.
    pub fn pod(&self) -> Option<&PodName> {
        if let Self::Pod(name) = self { Some(name) } else { None }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::Block(name) => write!(f, "BlockAffinity {name}"),
            Self::Pool(name) => write!(f, "IPPool {name}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Policy(name) => write!(f, "NetworkPolicy {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(name) => write!(f, "EndpointSlice {name}"),
        }
    }
}

// === impl Objects ===

impl Objects {
    /// Adds an object. One of the same name that is there already stays, and takes over what the kubelet, the scheduler
    /// and Calico would have written to it: status, annotations, `spec.podCIDRs`, and `spec.nodeName` where it had none.
    pub fn add(&mut self, object: Object) {
        match object {
            Object::Node(node) => match self.nodes.get_mut(&node.name) {
                Some(earlier) => earlier.make_mut().amend(node.into_inner()),
                None => drop(self.nodes.insert(node.name.clone(), node)),
            },
            Object::Pod(pod) => match self.pods.get_mut(&pod.name) {
                Some(earlier) => earlier.make_mut().amend(pod.into_inner()),
                None => drop(self.pods.insert(pod.name.clone(), pod)),
            },
            // These have neither status nor annotations that count: the earlier one stays as it is.
            Object::Block(block) => drop(self.blocks.entry(block.name.clone()).or_insert(block)),
            Object::Pool(pool) => drop(self.pools.entry(pool.name.clone()).or_insert(pool)),
            Object::Namespace(namespace) => {
                self.namespaces.entry(namespace.name.clone()).or_insert(namespace);
            }
            Object::Policy(policy) => {
                self.policies.entry(policy.name.clone()).or_insert(policy);
            }
            Object::Service(service) => {
                self.services.entry(service.name.clone()).or_insert(service);
            }
            Object::Slice(slice) => {
                self.slices.entry(slice.name.clone()).or_insert(slice);
            }
        }
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut all = Self::default();
        objects.into_iter().for_each(|object| all.add(object));
        all
    }
}

/// `metadata.creationTimestamp` in seconds since 1970 UTC (the API keeps whole seconds).
fn created_secs(meta: &ObjectMeta) -> Option<i64> {
    meta.creation_timestamp.as_ref().map(|time| time.0.as_second())
}

/// The value of an annotation, unless it is missing or blank.
fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
}

/// The address in front of a `/len`, which Calico writes into some of its annotations.
fn without_length(address: &str) -> String {
    address.split('/').next().unwrap_or_default().trim().to_owned()
}

/// Replaces `earlier` by `later` where that says anything.
fn amend_list(earlier: &mut Vec<String>, later: Vec<String>) {
    if !later.is_empty() {
        *earlier = later;
    }
}
