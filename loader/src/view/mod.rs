//! What the agent knows, for whoever asks: whose an address is, which policies are in force, who wrote a rule.
//!
//! In: the model and the plan of policies of the last pass. Out: answers as plain values ([`protocol`]), over a socket ([`server`])
//! that the command line asks ([`client`]). Never: a map, an interface, an answer that the agent's loop waits for.

pub mod client;
mod ends;
mod policies;
pub mod protocol;
pub mod server;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use margay_maps::Id;
use tokio::sync::watch;

use self::protocol::{Kind, Name};
use crate::{
    model::Model,
    object::{ObjectName, PodName, PolicyName, Standing},
    policy::{PolicyPlan, content::Direction},
};

/// The socket's name in the agent's directory.
pub const SOCKET: &str = "view.sock";

/// The last pass, as far as people ask about it. `None`: there was none yet, or one is at it.
pub type Watched = watch::Receiver<Option<Arc<View>>>;

/// What is known and in force.
#[derive(Debug)]
pub struct View {
    /// This node's name.
    pub node: String,
    /// The cluster.
    pub model: Arc<Model>,
    /// The policies of this node's pods.
    pub policy: Arc<PolicyPlan>,
    /// What the ids of peers stand for; made when somebody asks.
    who: OnceLock<BTreeMap<Id, String>>,
}

// === impl View ===

impl View {
    /// Of a pass.
    pub fn new(node: String, model: Arc<Model>, policy: Arc<PolicyPlan>) -> Self {
        Self { node, model, policy, who: OnceLock::new() }
    }

    /// Whose an address is.
    pub fn name(&self, address: IpAddr) -> Option<Name> {
        match self.model.owners.get(&address)? {
            ObjectName::Pod(pod) => Some(Name { kind: Kind::Pod, name: pod.to_string() }),
            ObjectName::Node(node) => Some(Name { kind: Kind::Node, name: node.clone() }),
            _ => None,
        }
    }

    /// Who wrote the rule with this id: `NetworkPolicy default/web, ingress[0]`.
    pub fn origin(&self, id: Id) -> Option<String> {
        self.policy.origins.get(&id).map(ToString::to_string)
    }

    /// The id of an address, and the peers of policies that it stands for. `None`: no policy of this node tells it from others.
    pub fn identity(&self, address: IpAddr) -> Option<(Id, Vec<String>)> {
        let id = self.policy.tables().identity(address.into());
        let peers = self.policy.peers.get(&id)?;
        let who = self.who.get_or_init(|| self.whos());
        let text = |peer: &crate::policy::content::PeerRef| {
            let who = who.get(&peer.who).cloned().unwrap_or_else(|| format!("peer {}", peer.who));
            peer.port
                .as_ref()
                .map_or(who.clone(), |port| format!("{who}, with port {} named {}", port.number, port.name))
        };
        Some((id, peers.iter().map(text).collect()))
    }

    fn whos(&self) -> BTreeMap<Id, String> {
        let entries = self.policy.contents.values().flat_map(|content| content.allowed.keys());
        entries.map(|entry| (entry.who.id, entry.who.to_string())).collect()
    }

    /// The NetworkPolicies that isolate a pod of this node in a direction.
    pub fn isolating(&self, pod: &PodName, direction: Direction) -> Vec<PolicyName> {
        let Some(known) = self.model.pods.get(pod) else { return Vec::new() };
        let first = PolicyName::new(&pod.namespace, "");
        let policies = self.model.policies.range(first..).take_while(|(name, _)| name.namespace == pod.namespace);
        let about = |policy: &crate::model::Policy| {
            let isolates = match direction {
                Direction::Ingress => policy.ingress.is_some(),
                Direction::Egress => policy.egress.is_some(),
            };
            // Whose labels are not known yet is isolated by whatever could select it.
            isolates && (known.standing == Standing::Announced || policy.pods.matches(&known.labels))
        };
        policies.filter(|(_, policy)| about(policy)).map(|(name, _)| name.clone()).collect()
    }

    /// The pod of this node that has an address.
    pub fn pod_here(&self, address: IpAddr) -> Option<&PodName> {
        let Some(ObjectName::Pod(name)) = self.model.owners.get(&address) else { return None };
        self.model.pods.get(name).filter(|pod| pod.node == self.node).map(|_| name)
    }
}
