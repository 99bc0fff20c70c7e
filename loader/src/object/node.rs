//! Nodes: their addresses, their blocks where Kubernetes hands these out, and their end of the overlay.

use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};

use super::{amend_list, annotation, created_secs, without_length};

/// Calico's annotations for a node's own address, one for each family, with or without `/len` (calico/node writes them).
const CALICO_ADDRESSES: [&str; 2] = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];
/// Calico's annotations for the address of a node's overlay device, one for each family.
const OVERLAY_ADDRESSES: [&str; 2] = ["projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr"];
/// Calico's annotation for the MAC of a node's overlay device, where it is not the one that follows from the name.
const OVERLAY_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";

/// A Node. Addresses are text as the object has them; the model reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
    /// `status.addresses` of type `InternalIP`.
    pub status_addresses: Vec<String>,
    /// `projectcalico.org/IPv4Address` and `…/IPv6Address`, without the length of the prefix.
    pub calico_addresses: Vec<String>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone.
    pub pod_cidrs: Vec<String>,
    /// `projectcalico.org/IPv4VXLANTunnelAddr` and `…/IPv6VXLANTunnelAddr`.
    pub overlay_addresses: Vec<String>,
    /// `projectcalico.org/VXLANTunnelMACAddr`.
    pub overlay_mac: Option<String>,
}

// === impl NodeObject ===

impl NodeObject {
    /// The node's own addresses: those in its status, and only where there are none, those that Calico noted.
    pub fn addresses(&self) -> &[String] {
        if self.status_addresses.is_empty() { &self.calico_addresses } else { &self.status_addresses }
    }

    /// Takes over what `later` says in status, annotations and `spec.podCIDRs`.
    pub fn amend(&mut self, later: Self) {
        let Self {
            name: _,
            created_secs,
            status_addresses,
            calico_addresses,
            pod_cidrs,
            overlay_addresses,
            overlay_mac,
        } = later;
        self.created_secs = self.created_secs.or(created_secs);
        amend_list(&mut self.status_addresses, status_addresses);
        amend_list(&mut self.calico_addresses, calico_addresses);
        amend_list(&mut self.pod_cidrs, pod_cidrs);
        amend_list(&mut self.overlay_addresses, overlay_addresses);
        self.overlay_mac = overlay_mac.or(self.overlay_mac.take());
    }
}

impl From<Node> for NodeObject {
    fn from(node: Node) -> Self {
        let Node { metadata, spec, status } = node;
        let spec = spec.unwrap_or_default();
        let of =
            |keys: [&'static str; 2]| keys.into_iter().filter_map(|key| annotation(&metadata, key)).map(without_length);
        let pod_cidrs = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty());
        Self {
            created_secs: created_secs(&metadata),
            status_addresses: status
                .and_then(|status| status.addresses)
                .into_iter()
                .flatten()
                .filter(|address| address.type_ == "InternalIP")
                .map(|address| address.address)
                .collect(),
            calico_addresses: of(CALICO_ADDRESSES).collect(),
            pod_cidrs: pod_cidrs.or(spec.pod_cidr.map(|cidr| vec![cidr])).unwrap_or_default(),
            overlay_addresses: of(OVERLAY_ADDRESSES).collect(),
            overlay_mac: annotation(&metadata, OVERLAY_MAC).map(str::to_owned),
            name: metadata.name.unwrap_or_default(),
        }
    }
}
