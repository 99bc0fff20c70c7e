//! The kinds that are watched, and how their objects look on the wire.
//!
//! In: a line of a watch, or a page of a list. Out: [`Event`]s with the same [`Object`]s that manifests give; everything else that
//! the server sent is dropped here, so that a large cluster fits into little memory. Never: a request, or a whole
//! stream lost to one object that cannot be read.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::metadata::PartialObjectMeta;
use kube::core::{ObjectList, Status, WatchEvent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crd::IpPool;
use crate::object::block::BlockAffinity;
use crate::object::policy::PolicyManifest;
use crate::object::{
    BlockObject, NamespaceObject, NodeObject, Object, ObjectName, PodName, PodObject, PolicyName, PolicyObject,
    PoolObject, ServiceName, ServiceObject, SliceName, SliceObject,
};

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `crd.projectcalico.org/v1` BlockAffinity.
    Block,
    /// `crd.projectcalico.org/v1` IPPool.
    Pool,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` NetworkPolicy.
    Policy,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    Slice,
}

/// One thing that a watch says.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// An object is new, different or gone.
    Object {
        /// Its name.
        name: ObjectName,
        /// What is known of it now.
        change: Change,
        /// The collection's version with this change.
        version: String,
    },
    /// Nothing has happened up to this version.
    Bookmark {
        /// The collection's version.
        version: String,
        /// The objects that were there when the watch began have all been sent (`k8s.io/initial-events-end`).
        complete: bool,
    },
    /// The watch is over.
    Error(Box<Status>),
}

/// What is known of an object now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there.
    Put(Object),
    /// It is there, but cannot be understood, for this reason.
    Unreadable(String),
    /// It is gone.
    Deleted,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    /// Its objects.
    pub objects: Vec<(ObjectName, Change)>,
    /// The collection's version.
    pub version: String,
    /// What to ask for the next page with; none after the last.
    pub more: Option<String>,
}

/// The annotation of the bookmark after the last object of a streamed list (apimachinery, meta/v1/types.go,
/// `InitialEventsAnnotationKey`).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

// === impl Kind ===

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 8] =
        [Self::Node, Self::Pod, Self::Block, Self::Pool, Self::Namespace, Self::Policy, Self::Service, Self::Slice];

    /// As kubectl names it.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Block => "blockaffinities",
            Self::Pool => "ippools",
            Self::Namespace => "namespaces",
            Self::Policy => "networkpolicies",
            Self::Service => "services",
            Self::Slice => "endpointslices",
        }
    }

    /// Whether the server may not know the kind, because nobody has defined it.
    pub(super) fn is_optional(self) -> bool {
        match self {
            Self::Node | Self::Pod | Self::Namespace | Self::Policy | Self::Service | Self::Slice => false,
            Self::Block | Self::Pool => true,
        }
    }

    /// The path of the collection of all of them.
    pub(super) fn path(self) -> String {
        match self {
            Self::Node => Node::url_path(&(), None),
            Self::Pod => Pod::url_path(&(), None),
            Self::Block => BlockAffinity::url_path(&(), None),
            Self::Pool => IpPool::url_path(&(), None),
            Self::Namespace => Namespace::url_path(&(), None),
            Self::Policy => PolicyManifest::url_path(&(), None),
            Self::Service => Service::url_path(&(), None),
            Self::Slice => EndpointSlice::url_path(&(), None),
        }
    }

    /// Which of them the server need not send: a pod that has run to its end has no network any more.
    pub(super) fn field_selector(self) -> Option<&'static str> {
        match self {
            Self::Pod => Some("status.phase!=Succeeded,status.phase!=Failed"),
            _ => None,
        }
    }

    /// Of which kind an object is.
    pub(super) fn of(name: &ObjectName) -> Self {
        match name {
            ObjectName::Node(_) => Self::Node,
            ObjectName::Pod(_) => Self::Pod,
            ObjectName::Block(_) => Self::Block,
            ObjectName::Pool(_) => Self::Pool,
            ObjectName::Namespace(_) => Self::Namespace,
            ObjectName::Policy(_) => Self::Policy,
            ObjectName::Service(_) => Self::Service,
            ObjectName::Slice(_) => Self::Slice,
        }
    }

    /// Reads a line of a watch.
    pub(super) fn event(self, line: &[u8]) -> Result<Event, String> {
        match self {
            Self::Node => event::<Node>(self, line),
            Self::Pod => event::<Pod>(self, line),
            Self::Block => event::<BlockAffinity>(self, line),
            Self::Pool => event::<IpPool>(self, line),
            Self::Namespace => event::<Namespace>(self, line),
            Self::Policy => event::<PolicyManifest>(self, line),
            Self::Service => event::<Service>(self, line),
            Self::Slice => event::<EndpointSlice>(self, line),
        }
    }

    /// Reads a page of a list.
    pub(super) fn page(self, text: &str) -> Result<Page, String> {
        match self {
            Self::Node => page::<Node>(self, text),
            Self::Pod => page::<Pod>(self, text),
            Self::Block => page::<BlockAffinity>(self, text),
            Self::Pool => page::<IpPool>(self, text),
            Self::Namespace => page::<Namespace>(self, text),
            Self::Policy => page::<PolicyManifest>(self, text),
            Self::Service => page::<Service>(self, text),
            Self::Slice => page::<EndpointSlice>(self, text),
        }
    }

    fn name(self, meta: &ObjectMeta) -> ObjectName {
        let name = meta.name.clone().unwrap_or_default();
        let namespace = || meta.namespace.clone().unwrap_or_default();
        match self {
            Self::Node => ObjectName::Node(name),
            Self::Pod => ObjectName::Pod(PodName::new(namespace(), name)),
            Self::Block => ObjectName::Block(name),
            Self::Pool => ObjectName::Pool(name),
            Self::Namespace => ObjectName::Namespace(name),
            Self::Policy => ObjectName::Policy(PolicyName::new(namespace(), name)),
            Self::Service => ObjectName::Service(ServiceName::new(namespace(), name)),
            Self::Slice => ObjectName::Slice(SliceName::new(namespace(), name)),
        }
    }
}

// === impl Change ===

impl Change {
    /// What is known of it on this node: what a pod of another one wishes is asked for there.
    pub(super) fn seen_from(mut self, node: &str) -> Self {
        if let Self::Put(Object::Pod(pod)) = &mut self
            && pod.wishes.is_some()
            && pod.node.as_deref() != Some(node)
        {
            pod.make_mut().wishes = None;
        }
        self
    }
}

/// An object of the API that becomes one of ours.
trait Wire: Resource<DynamicType = ()> + DeserializeOwned + Clone {
    fn object(self) -> Object;
}

impl Wire for Node {
    fn object(self) -> Object {
        NodeObject::from(self).into()
    }
}

impl Wire for Pod {
    fn object(self) -> Object {
        PodObject::from(self).into()
    }
}

impl Wire for IpPool {
    fn object(self) -> Object {
        PoolObject::from(self).into()
    }
}

impl Wire for Namespace {
    fn object(self) -> Object {
        NamespaceObject::from(self).into()
    }
}

impl Wire for Service {
    fn object(self) -> Object {
        ServiceObject::from(self).into()
    }
}

impl Wire for EndpointSlice {
    fn object(self) -> Object {
        SliceObject::from(self).into()
    }
}

impl Wire for PolicyManifest {
    fn object(self) -> Object {
        PolicyObject::from(self).into()
    }
}

impl Wire for BlockAffinity {
    fn object(self) -> Object {
        BlockObject::from(self).into()
    }
}

fn event<W: Wire>(kind: Kind, line: &[u8]) -> Result<Event, String> {
    let error = match serde_json::from_slice::<WatchEvent<W>>(line) {
        Ok(event) => return Ok(read(kind, event, |wire| Change::Put(wire.object()), |wire| wire.meta())),
        Err(error) => error.to_string(),
    };
    // Its name, at least: one strange object must not stop the news of all others.
    match serde_json::from_slice::<WatchEvent<PartialObjectMeta<W>>>(line) {
        Ok(event) => Ok(read(kind, event, |_| Change::Unreadable(error.clone()), |partial| &partial.metadata)),
        Err(_) => Err(error),
    }
}

fn read<O>(kind: Kind, event: WatchEvent<O>, put: impl FnOnce(O) -> Change, meta: impl Fn(&O) -> &ObjectMeta) -> Event {
    let (object, deleted) = match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
        WatchEvent::Deleted(object) => (object, true),
        WatchEvent::Bookmark(bookmark) => {
            let meta = bookmark.metadata;
            let complete = meta.annotations.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true");
            return Event::Bookmark { version: meta.resource_version, complete };
        }
        WatchEvent::Error(status) => return Event::Error(status),
    };
    let name = kind.name(meta(&object));
    let version = meta(&object).resource_version.clone().unwrap_or_default();
    let change = if deleted { Change::Deleted } else { put(object) };
    Event::Object { name, change, version }
}

fn page<W: Wire>(kind: Kind, text: &str) -> Result<Page, String> {
    if let Ok(list) = serde_json::from_str::<ObjectList<W>>(text) {
        let ObjectList { metadata, items, .. } = list;
        let objects = items.into_iter().map(|wire| (kind.name(wire.meta()), Change::Put(wire.object()))).collect();
        return Ok(Page {
            objects,
            version: metadata.resource_version.unwrap_or_default(),
            more: metadata.continue_.filter(|token| !token.is_empty()),
        });
    }
    // One of them is strange: each by itself.
    let list: ObjectList<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let ObjectList { metadata, items, .. } = list;
    let objects = items.into_iter().map(|item| item_of::<W>(kind, item)).collect::<Result<_, _>>()?;
    Ok(Page {
        objects,
        version: metadata.resource_version.unwrap_or_default(),
        more: metadata.continue_.filter(|token| !token.is_empty()),
    })
}

fn item_of<W: Wire>(kind: Kind, item: Value) -> Result<(ObjectName, Change), String> {
    let partial: PartialObjectMeta<W> = Deserialize::deserialize(&item).map_err(|error| error.to_string())?;
    let change = match serde_json::from_value::<W>(item) {
        Ok(wire) => Change::Put(wire.object()),
        Err(error) => Change::Unreadable(error.to_string()),
    };
    Ok((kind.name(&partial.metadata), change))
}
