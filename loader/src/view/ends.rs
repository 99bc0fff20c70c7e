//! Who somebody is: from what was typed to an address, and to all that is known of it.

use std::net::IpAddr;

use margay_maps::Id;

use super::{
    View,
    protocol::{End, Isolation, Kind},
};
use crate::{
    object::{ObjectName, PodName, PolicyName},
    policy::content::Direction,
};

// === impl View ===

impl View {
    /// Everything about a pod (`namespace/name`) or an address. The error says what is wrong with `text`.
    pub fn end(&self, text: &str) -> Result<End, String> {
        if let Ok(address) = text.parse() {
            return Ok(self.end_of(address));
        }
        let name = PodName::try_from(text.to_owned())
            .map_err(|_neither| format!("`{text}` is neither an address nor a pod's namespace/name"))?;
        let Some(pod) = self.model.pods.get(&name) else {
            return Err(format!("there is no pod {name} with a network of its own"));
        };
        let address = pod.addresses.iter().copied().find(IpAddr::is_ipv4).or(pod.addresses.first().copied());
        address.map(|address| self.end_of(address)).ok_or_else(|| format!("the pod {name} has no address yet"))
    }

    fn end_of(&self, address: IpAddr) -> End {
        let (kind, name, node) = match self.model.owners.get(&address) {
            Some(ObjectName::Pod(pod)) => {
                let node = self.model.pods.get(pod).map(|pod| pod.node.to_string());
                (Kind::Pod, Some(pod.to_string()), node)
            }
            Some(ObjectName::Node(node)) => (Kind::Node, Some(node.clone()), Some(node.clone())),
            _ => (Kind::World, None, None),
        };
        let (identity, peers) = self.identity(address).map_or((None, Vec::new()), |(id, peers)| (Some(id), peers));
        let pod = self.pod_here(address);
        let isolation = |direction| pod.and_then(|pod| self.isolation(pod, direction));
        End {
            address,
            kind,
            name,
            here: node.as_deref() == Some(&self.node),
            node,
            identity: identity.map(|id| id.to_string()),
            peers,
            ingress: isolation(Direction::Ingress),
            egress: isolation(Direction::Egress),
        }
    }

    /// What is in force for a pod of this node. `None`: nothing isolates it.
    pub(super) fn isolation(&self, pod: &PodName, direction: Direction) -> Option<Isolation> {
        let id = self.id(pod, direction);
        let policies = || self.isolating(pod, direction).iter().map(PolicyName::to_string).collect();
        (!id.is_none()).then(|| Isolation { policies: policies(), id: id.to_string() })
    }

    /// The id of what a pod of this node may do.
    pub(super) fn id(&self, pod: &PodName, direction: Direction) -> Id {
        self.policy.enforcement.get(pod).map_or(Id::NONE, |directions| match direction {
            Direction::Ingress => directions.ingress,
            Direction::Egress => directions.egress,
        })
    }
}
