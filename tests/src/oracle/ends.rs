//! Who is meant by an end of a flow. In: a [`Cluster`] and an [`End`]. Out: a [`Party`]: a pod with a place in the pod
//! network, a node, or somebody outside. Never: a look at a policy.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{
    answer::NoAnswer,
    cluster::{Cluster, name_of},
    flow::End,
};

/// Who is at one end, with the address that packets carry.
#[derive(Clone, Copy, Debug)]
pub enum Party<'a> {
    /// A pod with an address of its own.
    Pod(&'a Pod, IpAddr),
    /// A node, or a pod of its network.
    Node(&'a Node, IpAddr),
    /// Nobody of the cluster.
    Outside(IpAddr),
}

// === impl Party ===

impl Party<'_> {
    /// What an ipBlock is compared with.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Pod(_, address) | Self::Node(_, address) | Self::Outside(address) => *address,
        }
    }

    /// Whether this is that pod.
    pub fn is(&self, pod: &Pod) -> bool {
        matches!(self, Self::Pod(me, _) if name_of(&me.metadata) == name_of(&pod.metadata))
    }

    /// Whether this is the node that `pod` runs on.
    pub fn is_node_of(&self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref());
        matches!(self, Self::Node(me, _) if node.is_some() && me.metadata.name.as_ref() == node)
    }
}

// === impl Cluster: ends ===

impl Cluster {
    /// The address that packets of this end carry.
    ///
    /// # Errors
    /// There is nobody of that name, or it has no address.
    pub fn address_of(&self, end: &End) -> Result<IpAddr, NoAnswer> {
        self.find(end).map(|party| party.address())
    }

    /// Who is meant.
    ///
    /// # Errors
    /// There is nobody of that name, or it has no address.
    pub(super) fn find(&self, end: &End) -> Result<Party<'_>, NoAnswer> {
        let no_address = || NoAnswer::NoAddress(end.clone());
        match end {
            End::Pod(name) => {
                let pod = self.pods.iter().find(|p| name_of(&p.metadata) == *name);
                let pod = pod.ok_or_else(|| NoAnswer::Unknown(end.clone()))?;
                if finished(pod) {
                    return Err(no_address());
                }
                if on_host_network(pod) {
                    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
                    return self.find(&End::Node(node.ok_or_else(no_address)?));
                }
                let address = pod_addresses(pod).first().copied();
                Ok(Party::Pod(pod, address.ok_or_else(no_address)?))
            }
            End::Node(name) => {
                let node = self.nodes.iter().find(|n| n.metadata.name.as_ref() == Some(name));
                let node = node.ok_or_else(|| NoAnswer::Unknown(end.clone()))?;
                let address = node_addresses(node).first().copied();
                Ok(Party::Node(node, address.ok_or_else(no_address)?))
            }
            End::Address(address) => Ok(self.who_has(*address)),
        }
    }

    fn who_has(&self, address: IpAddr) -> Party<'_> {
        let in_network = |p: &&Pod| !finished(p) && !on_host_network(p);
        let pod = self.pods.iter().filter(in_network).find(|p| pod_addresses(p).contains(&address));
        let node = self.nodes.iter().find(|n| node_addresses(n).contains(&address));
        match (pod, node) {
            (Some(pod), _) => Party::Pod(pod, address),
            (None, Some(node)) => Party::Node(node, address),
            (None, None) => Party::Outside(address),
        }
    }
}

/// Such a pod has given its address back: another one may have it
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase>).
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Such a pod has its node's addresses.
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// `status.podIP`, then all of `status.podIPs`.
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|ip| &ip.ip));
    all.filter_map(|text| text.parse().ok()).collect()
}

/// All InternalIPs, then all ExternalIPs.
pub fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let listed: Vec<_> = node.status.iter().flat_map(|s| s.addresses.iter().flatten()).collect();
    let of_type = |kind: &'static str| listed.iter().filter(move |a| a.type_ == kind);
    of_type("InternalIP").chain(of_type("ExternalIP")).filter_map(|a| a.address.parse().ok()).collect()
}
