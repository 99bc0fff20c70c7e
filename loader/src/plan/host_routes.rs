//! The routes of the host's own stack: by them the node itself reaches its pods and those of other nodes.
//!
//! There is none to the other nodes' own addresses: the host reaches those over the network that it had before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::build::Context;
use super::entries::{local_pods, v4};
use super::peers::{self, Peer};
use super::{HostRoute, RouteTarget};

/// All routes that are Margay's, one for each destination.
pub(super) fn all(context: &Context<'_>, peers: &[Peer<'_>]) -> BTreeSet<HostRoute> {
    let mut routes: BTreeMap<IpNet, RouteTarget> = BTreeMap::new();
    // What nobody has in an own block must not leave by the default route. A block of one address is the pod's that has it:
    // hence blocks first.
    if let Some(node) = context.node {
        routes.extend(peers::v4_blocks(node).map(|block| (block, RouteTarget::Blackhole)));
    }
    if context.address.is_some() {
        let source = context.overlay_address.or(context.address_on_host());
        let behind = peers.iter().flat_map(behind);
        routes.extend(behind.map(|net| (net, RouteTarget::Overlay { source })));
    }
    let source = context.address_on_host();
    for local in local_pods(context) {
        let Some(ifindex) = local.ifindex else { continue };
        let target = RouteTarget::Device { ifindex, source };
        routes.extend(v4(&local.pod.addresses).map(|ip| (IpNet::from(ip), target.clone())));
    }
    routes.into_iter().map(|(dst, target)| HostRoute { dst, target }).collect()
}

/// What the host reaches through the overlay: blocks, addresses outside of them, and the overlay device's own address where
/// no block holds it, since the node's stack may answer from it.
fn behind<'a>(peer: &'a Peer<'_>) -> impl Iterator<Item = IpNet> + use<'a> {
    let in_block = |ip: &IpAddr| peer.node.blocks.iter().any(|block| block.contains(ip));
    let overlay_address = v4(&peer.node.overlay_addresses).filter(move |ip| !in_block(ip)).map(IpNet::from);
    peers::v4_blocks(peer.node).chain(peer.strays.iter().copied()).chain(overlay_address)
}
