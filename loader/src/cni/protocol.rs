//! What plugin and agent say to each other: one JSON object a line, each request answered by one reply, before which
//! the agent may say any number of times that it works on it.

use std::net::IpAddr;

use margay_maps::Mac;
use serde::{Deserialize, Serialize};

use super::spec::{AttachmentId, CniError};
use crate::object::PodName;

/// A question of the plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// ADD, first half: which addresses and which MTU?
    Prepare(Prepare),
    /// ADD, second half: the interface is there; put it in force.
    Commit {
        /// Which attachment.
        attachment: AttachmentId,
        /// Whether the next plugin puts qdiscs of its own on the host's side, so that ours may not be in its way.
        limited: bool,
    },
    /// DEL: forget the attachment and take its addresses back.
    Release {
        /// Which attachment.
        attachment: AttachmentId,
        /// Whether its addresses, if it has any, are from Margay's own address manager: then they are looked for even if
        /// the agent knows nothing of the attachment.
        own_addresses: bool,
    },
    /// CHECK: is the attachment in force?
    Check {
        /// Which attachment.
        attachment: AttachmentId,
    },
    /// GC: forget every attachment but these.
    Gc {
        /// What still exists.
        valid: Vec<AttachmentId>,
    },
    /// STATUS: would ADD work?
    Status,
}

// === impl Request ===

impl Request {
    /// Which attachment it is about, if it is about one.
    pub fn attachment(&self) -> Option<&AttachmentId> {
        match self {
            Self::Prepare(Prepare { attachment, .. })
            | Self::Commit { attachment, .. }
            | Self::Release { attachment, .. }
            | Self::Check { attachment } => Some(attachment),
            Self::Gc { .. } | Self::Status => None,
        }
    }
}

/// What the agent must know to give a pod its addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// Which attachment.
    pub attachment: AttachmentId,
    /// Which pod.
    pub pod: PodName,
    /// The pod's `metadata.uid`, if the runtime says it.
    #[serde(default)]
    pub uid: Option<String>,
    /// The pod's network namespace.
    pub netns: String,
    /// Addresses that somebody else's address manager has given; empty: the agent is to give some.
    pub given: Vec<IpAddr>,
    /// Addresses that the runtime asks for (capability `ips`).
    pub wanted: Vec<IpAddr>,
}

/// The agent's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The answer is not ready yet.
    Working,
    /// To [`Request::Prepare`].
    Prepared(Prepared),
    /// Done, or in force; to [`Request::Release`] and [`Request::Check`] with what was attached, if anything was.
    Done(Option<Attached>),
    /// To [`Request::Gc`]: what was forgotten.
    Collected(Vec<AttachmentId>),
    /// It could not be done.
    Failed(CniError),
}

/// What a pod's interface is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its MAC, if the pod's annotation asks for one.
    pub mac: Option<String>,
}

/// An attachment as the agent remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The host's side.
    pub host_interface: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether another attachment has taken the interface's name over since: then it is not ours to remove.
    pub superseded: bool,
}

/// The host's side of every pod.
pub const HOST_MAC: Mac = Mac::GATEWAY;
