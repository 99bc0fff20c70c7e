//! Flannel's way: on each node a bridge with the pods as its ports, and the kernel's VXLAN device between the nodes, with
//! static neighbour and forwarding entries. Without netfilter rules, or with Flannel's own, which are in `flannel.nft`.
//!
//! ```text
//! pod eth0 10.244.x.y/24 ── veth ── cni0 10.244.x.1/24 ── routing ── flannel.1 ── eth0 of the node
//! ```

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{CLIENT, LOCAL, NODES, Pair, REMOTE, Topology, address, block, kernel_vxlan, load_rules, two_nodes};
use crate::{
    Lab, Namespace, Place,
    names::PodName,
    netlink::{Netlink, VethEnd, add_veth},
    wiring::{DEVICE, POD_MTU},
};

/// Flannel's own names and numbers (Documentation/backends.md: VNI 1, port 8472).
const BRIDGE: &str = "cni0";
const OVERLAY: &str = "flannel.1";
const VNI: u32 = 1;
const PORT: u16 = 8472;

/// Flannel's rules, with `@@NODE_BLOCK@@` and `@@CLUSTER@@` where addresses go.
pub const FLANNEL_RULES: &str = include_str!("flannel.nft");
/// Where the lab's blocks come from.
const CLUSTER: &str = "10.244.0.0/16";

/// Builds it. `rules`: for nft, on each node.
pub fn bridge(name: &str, rules: Option<&str>) -> Result<Topology> {
    let lab = two_nodes(name).without_agents().start()?;
    for node in NODES {
        let netlink = Netlink::open(&lab.node(node)?.namespace)?;
        netlink.add_bridge(BRIDGE, POD_MTU)?;
        netlink.add_address(BRIDGE, Ipv4Net::new(address(&lab, node, 1)?, 24)?)?;
        kernel_vxlan(&lab, node, OVERLAY, VNI, PORT)?;
        if let Some(rules) = rules {
            let rules =
                rules.replace("@@NODE_BLOCK@@", &block(&lab, node)?.to_string()).replace("@@CLUSTER@@", CLUSTER);
            load_rules(&lab.node(node)?, &rules)?;
        }
    }
    let client = add_pod(&lab, CLIENT, NODES[0], 2)?;
    let local = add_pod(&lab, LOCAL, NODES[0], 3)?;
    let remote = add_pod(&lab, REMOTE, NODES[1], 2)?;
    let across = Pair { client: client.clone(), server: remote };
    Ok(Topology { readers: Vec::new(), lab, across, same: Some(Pair { client, server: local }) })
}

/// A pod as the CNI plugin `bridge` makes it.
fn add_pod(lab: &Lab, name: &str, node: &str, offset: u32) -> Result<Place> {
    let here = lab.node(node)?;
    let namespace = Namespace::create(&lab.name().pod(&PodName::new("default", name)))?;
    let port = format!("veth{name}");
    add_veth(
        &VethEnd { namespace: &here.namespace, name: &port, mtu: POD_MTU, mac: None },
        &VethEnd { namespace: &namespace, name: DEVICE, mtu: POD_MTU, mac: None },
    )?;
    let outside = Netlink::open(&here.namespace)?;
    outside.set_master(&port, BRIDGE)?;
    outside.up(&port)?;
    let address_of_pod = address(lab, node, offset)?;
    let inside = Netlink::open(&namespace)?;
    inside.up("lo")?;
    inside.add_address(DEVICE, Ipv4Net::new(address_of_pod, 24)?)?;
    inside.up(DEVICE)?;
    inside.add_route(Ipv4Net::default(), Some(address(lab, node, 1)?), DEVICE)?;
    Ok(Place { name: name.to_owned(), address: address_of_pod, node: node.to_owned(), namespace })
}
