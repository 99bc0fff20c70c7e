//! Everything that is written down about addresses, and who is still there to use them.
//!
//! In: the store. Out: a [`Snapshot`]; of it, each address that is taken, with what became of its owner. Never: a judgement on an owner
//! that was not looked for after the address was: blocks are read before pods and nodes, so that a pod that came in
//! between is found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;

use super::block::Taken;
use super::store::{Store, StoreError};
use crate::crd::{BlockAffinity, IpamBlock, IpamHandle};
use crate::object::{PodName, PodObject};

/// What is written down, and who is there.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All blocks.
    pub blocks: Vec<IpamBlock>,
    /// All affinities.
    pub affinities: Vec<BlockAffinity>,
    /// All handles.
    pub handles: Vec<IpamHandle>,
    /// All pods.
    pub pods: BTreeMap<PodName, PodObject>,
    /// The names of all nodes.
    pub nodes: BTreeSet<String>,
}

/// An address that is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// The handle by which it is taken back.
    pub handle: Option<String>,
    /// The block's sequence number when it was given out, if that is known.
    pub sequence: Option<u64>,
    /// The pod that it was given to.
    pub pod: Option<PodName>,
    /// The node that gave it out, or whose tunnel has it.
    pub node: Option<String>,
    /// What it is for if not for a pod: `vxlanTunnelAddress` and the like.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What became of the owner.
    pub state: State,
}

/// What became of the owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has the address.
    InUse,
    /// Nobody wrote down who it is; it may well be there.
    Unknown,
    /// Its node does not exist.
    NodeGone,
    /// The pod does not exist.
    PodGone,
    /// A pod of the name runs on another node.
    PodElsewhere,
    /// The pod has run to its end.
    PodFinished,
    /// A pod of the name has other addresses.
    PodHasOthers,
}

// === impl State ===

impl State {
    /// Whether nobody uses the address any more.
    pub fn is_leak(self) -> bool {
        !matches!(self, Self::InUse | Self::Unknown)
    }

    /// For people, as part of a sentence.
    pub fn explain(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Unknown => "nobody knows whose",
            Self::NodeGone => "its node is gone",
            Self::PodGone => "its pod is gone",
            Self::PodElsewhere => "its pod runs on another node",
            Self::PodFinished => "its pod has finished",
            Self::PodHasOthers => "its pod has other addresses",
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Reads everything.
    ///
    /// # Errors
    /// Something cannot be read. Then nothing is known: a list that is short for lack of an answer is not a short list.
    pub async fn take<S: Store>(store: &S) -> Result<Self, StoreError> {
        let handles = store.list::<IpamHandle>().await?;
        let blocks = store.list::<IpamBlock>().await?;
        let affinities = store.list::<BlockAffinity>().await?;
        let pods = store.list::<Pod>().await?.into_iter().map(PodObject::from);
        let nodes = store.list::<Node>().await?;
        Ok(Self {
            blocks: blocks.into_iter().filter(|block| !block.spec.deleted).collect(),
            affinities: affinities.into_iter().filter(|affinity| !affinity.spec.is_deleted()).collect(),
            handles: handles.into_iter().filter(|handle| !handle.spec.deleted).collect(),
            pods: pods.map(|pod| (pod.name.clone(), pod)).collect(),
            nodes: nodes.into_iter().filter_map(|node| node.metadata.name).collect(),
        })
    }

    /// All addresses that are taken, in order.
    pub fn held(&self) -> Vec<Held> {
        let mut held: Vec<Held> = self.blocks.iter().flat_map(|block| self.held_in(block)).collect();
        held.sort();
        held
    }

    fn held_in(&self, block: &IpamBlock) -> Vec<Held> {
        let Ok(net) = block.spec.cidr.parse::<IpNet>() else { return Vec::new() };
        block.spec.taken().map(|taken| self.judge(net, &taken)).collect()
    }

    fn judge(&self, block: IpNet, taken: &Taken<'_>) -> Held {
        let attribute = |key: &str| taken.by.secondary.get(key).cloned();
        let pod = attribute("pod").zip(attribute("namespace")).map(|(pod, namespace)| PodName::new(namespace, pod));
        let (node, kind) = (attribute("node"), attribute("type"));
        let mut held = Held {
            address: taken.address,
            block,
            handle: taken.by.clean_handle().map(str::to_owned),
            sequence: taken.sequence,
            pod,
            node,
            kind,
            state: State::Unknown,
        };
        held.state = held.state_with(
            held.pod.as_ref().and_then(|name| self.pods.get(name)),
            held.node.as_ref().is_none_or(|node| self.nodes.contains(node)),
        );
        held
    }
}

// === impl Held ===

impl Held {
    /// What became of the owner, if `pod` is the pod of that name as it is now, and the node is there or is not.
    pub fn state_with(&self, pod: Option<&PodObject>, node_is_there: bool) -> State {
        let gone = |state| if node_is_there { state } else { State::NodeGone };
        if self.pod.is_none() {
            // A tunnel goes with its node. What else has a node, has a type as well.
            return if self.kind.is_some() && self.node.is_some() { gone(State::InUse) } else { State::Unknown };
        }
        let Some(pod) = pod else { return gone(State::PodGone) };
        if pod.finished() {
            return gone(State::PodFinished);
        }
        if self.node.is_some() && pod.node.as_deref() != self.node.as_deref() {
            return gone(State::PodElsewhere);
        }
        // A pod without an address is about to get one, perhaps this.
        let has_it = |text: &str| text.parse() == Ok(self.address);
        if pod.addresses().is_empty() || pod.addresses().iter().any(|text| has_it(text)) {
            State::InUse
        } else {
            gone(State::PodHasOthers)
        }
    }

    /// Whose it is, for people.
    pub fn owner(&self) -> String {
        match (&self.pod, &self.kind, &self.node, &self.handle) {
            (Some(pod), ..) => format!("Pod {pod}"),
            (None, Some(kind), Some(node), _) => format!("Node {node} ({kind})"),
            (None, _, _, Some(handle)) => format!("handle {handle}"),
            (None, ..) => "nobody knows".to_owned(),
        }
    }
}
