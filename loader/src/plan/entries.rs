//! The content of the maps `endpoints`, `routes` and `nodes`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_maps::{Addr, Endpoint, EndpointKind, Mac, Node, PrefixKey, Route, RouteKind};

use super::build::Context;
use super::peers::{self, Peer};
use crate::model::Pod;
use crate::names;
use crate::object::PodName;

/// The node's own addresses, and those of its pods whose interfaces are there.
pub(super) fn endpoints(context: &Context<'_>) -> BTreeMap<Addr, Endpoint> {
    let mut endpoints = BTreeMap::new();
    if let Some(node) = context.node {
        let host = Endpoint { kind: EndpointKind::Host, ..Endpoint::default() };
        let own = node.addresses.iter().chain(&node.overlay_addresses).filter(|ip| ip.is_ipv4());
        endpoints.extend(own.map(|ip| (Addr::from(*ip), host)));
    }
    for LocalPod { pod, ifindex, .. } in local_pods(context) {
        let Some(interface) = ifindex.and_then(|ifindex| context.host.interfaces.get(&ifindex)) else { continue };
        let workload = Endpoint {
            kind: EndpointKind::Workload,
            ifindex: ifindex.unwrap_or_default(),
            mac: interface.peer_mac.unwrap_or(Mac::ZERO),
            ..Endpoint::default()
        };
        endpoints.extend(v4(&pod.addresses).map(|ip| (Addr::from(ip), workload)));
    }
    endpoints
}

/// Blocks of all nodes; addresses outside their node's blocks; and the other nodes' own addresses.
///
/// A pod's packets to another node itself go through the overlay as well, so that the network between the nodes need not know pods'
/// addresses, and a check of the reverse path finds them where they are expected.
pub(super) fn routes(context: &Context<'_>, peers: &[Peer<'_>]) -> BTreeMap<PrefixKey, Route> {
    let mut routes = BTreeMap::new();
    if let Some(node) = context.node {
        let local = Route { kind: RouteKind::Local, ..Route::default() };
        routes.extend(peers::v4_blocks(node).map(|block| (PrefixKey::from(block), local)));
    }
    // Blocks before single addresses: where a block is a single address, the pod or node that has it decides.
    let remote = |peer: &Peer<'_>| Route {
        kind: RouteKind::Remote,
        ifindex: peer.ifindex,
        node: peer.address.into(),
        next_hop: peer.next_hop.into(),
        mac: peer.node.overlay_mac,
        ..Route::default()
    };
    for peer in peers {
        routes.extend(peers::v4_blocks(peer.node).map(|block| (PrefixKey::from(block), remote(peer))));
    }
    for peer in peers {
        let own = v4(&peer.node.addresses).chain(v4(&peer.node.overlay_addresses)).map(IpNet::from);
        let single = peer.strays.iter().copied().chain(own);
        routes.extend(single.map(|net| (PrefixKey::from(net), remote(peer))));
    }
    routes
}

/// Other nodes by each of their own addresses, also those that no route leads to: what they send is believed.
pub(super) fn nodes(context: &Context<'_>) -> BTreeMap<Addr, Node> {
    peers::others(context)
        .flat_map(|(_, node)| {
            let value = Node { mac: node.overlay_mac, ..Node::default() };
            v4(&node.addresses).map(move |ip| (Addr::from(ip), value))
        })
        .collect()
}

/// The pod behind each interface.
pub(super) fn pods(context: &Context<'_>) -> BTreeMap<u32, PodName> {
    local_pods(context).filter_map(|local| Some((local.ifindex?, local.name.clone()))).collect()
}

/// Pods of this node that lack their interface or their address.
pub(super) fn waiting(context: &Context<'_>) -> Vec<String> {
    local_pods(context)
        .filter(|local| local.ifindex.is_none() || local.pod.addresses.is_empty())
        .map(|local| local.name.to_string())
        .collect()
}

/// A pod of this node.
pub(super) struct LocalPod<'a> {
    pub name: &'a PodName,
    pub pod: &'a Pod,
    /// Its interface on the host's side, if it is there.
    pub ifindex: Option<u32>,
}

/// The pods of this node, in order of their names.
pub(super) fn local_pods<'a>(context: &Context<'a>) -> impl Iterator<Item = LocalPod<'a>> + use<'a> {
    let by_name: BTreeMap<&str, u32> =
        context.host.interfaces.iter().map(|(ifindex, interface)| (interface.name.as_str(), *ifindex)).collect();
    context.model.pods_on(&context.options.node_name).map(move |(name, pod)| {
        let interface = names::workload_interface(&name.namespace, &name.name);
        LocalPod { name, pod, ifindex: by_name.get(interface.as_str()).copied() }
    })
}

/// The addresses that are planned for.
pub(super) fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(IpAddr::is_ipv4)
}
