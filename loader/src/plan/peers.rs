//! The other nodes: where each is, and which addresses are behind it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::build::Context;
use super::devices;
use super::{FibRoute, HostView};
use crate::model::{self, Model, Pod, PrefixMap};
use crate::problem::Problem;

/// Another node that packets can be sent to.
pub(super) struct Peer<'a> {
    pub node: &'a model::Node,
    /// The outer destination: its first address of IPv4.
    pub address: IpAddr,
    /// The uplink that leads to it.
    pub ifindex: u32,
    /// The neighbour on it: the node itself, or a gateway.
    pub next_hop: IpAddr,
    /// Addresses of its pods outside its own blocks, each as a prefix of full length.
    pub strays: Vec<IpNet>,
}

/// All other nodes that can be reached, in order of their names; a [`Problem`] for each that cannot.
pub(super) fn find<'a>(context: &Context<'a>, problems: &mut Vec<Problem>) -> Vec<Peer<'a>> {
    let ways = ways(context.host);
    let mut strays = strays(context);
    let mut peers = Vec::new();
    for (name, node) in others(context) {
        let strays = strays.remove(name.as_str()).unwrap_or_default();
        let Some(address) = node.addresses.iter().copied().find(IpAddr::is_ipv4) else {
            // A node of IPv6 alone lacks nothing.
            if node.addresses.is_empty() || !strays.is_empty() || v4_blocks(node).next().is_some() {
                problems.push(Problem::new(
                    format!("Node {name}"),
                    "it has no IPv4 address of its own; its pods are out of reach",
                    "give it an address of type InternalIP in status.addresses, or annotate it with projectcalico.org/IPv4Address",
                ));
            }
            continue;
        };
        match ways.longest_match(address) {
            Some((_, way)) => {
                let next_hop = way.gateway.unwrap_or(address);
                peers.push(Peer { node, address, ifindex: way.ifindex, next_hop, strays });
            }
            None => problems.push(Problem::new(
                format!("Node {name}"),
                format!("this machine has no route to its address {address}; its pods are out of reach"),
                "add a route to it (`ip route get` shows what is there), or correct the address",
            )),
        }
    }
    peers
}

/// All nodes but this one.
pub(super) fn others<'a>(context: &Context<'a>) -> impl Iterator<Item = (&'a String, &'a model::Node)> + use<'a> {
    let own = context.options.node_name.as_str();
    context.model.nodes.iter().filter(move |(name, _)| *name != own)
}

/// A node's blocks that are planned for.
pub(super) fn v4_blocks(node: &model::Node) -> impl Iterator<Item = IpNet> {
    node.blocks.iter().copied().filter(|block| block.addr().is_ipv4())
}

/// How another machine is reached; the least one is the kernel's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    metric: u32,
    ifindex: u32,
    gateway: Option<IpAddr>,
}

/// What the kernel's routes say about where other machines are: the way by destination. Among equal destinations
/// the lower metric wins, as in the kernel, then the lower index. Routes by pods' interfaces and by the overlay lead to
/// no machine.
fn ways(host: &HostView) -> PrefixMap<Way> {
    let mut ways = PrefixMap::default();
    for route in &host.fib {
        let usable = host.interfaces.get(&route.ifindex).is_some_and(|interface| devices::leads_out(&interface.name));
        let FibRoute { dst: _, ifindex, gateway, metric } = *route;
        let way = Way { metric, ifindex, gateway };
        if usable && ways.get(route.dst).is_none_or(|best| way < *best) {
            ways.insert(route.dst, way);
        }
    }
    ways
}

/// Pods of other nodes whose addresses lie outside their node's blocks, by node: Calico's IPAM lends addresses of other
/// nodes' blocks when it runs short, and without any blocks every address is one.
fn strays<'a>(context: &Context<'a>) -> BTreeMap<&'a str, Vec<IpNet>> {
    let mut strays: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    for pod in context.model.pods.values().filter(|pod| pod.node != context.options.node_name) {
        for ip in outside(context.model, pod) {
            strays.entry(&pod.node).or_default().push(IpNet::from(ip));
        }
    }
    strays
}

/// Whether a pod needs a route of its own.
pub fn is_stray(model: &Model, pod: &Pod) -> bool {
    outside(model, pod).next().is_some()
}

/// The pod's addresses that lie outside its node's blocks.
fn outside<'a>(model: &'a Model, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + use<'a> {
    let node = model.nodes.get(pod.node.as_str());
    let in_block = move |ip: &IpAddr| node.is_none_or(|node| node.blocks.iter().any(|block| block.contains(ip)));
    pod.addresses.iter().copied().filter(move |ip| ip.is_ipv4() && !in_block(ip))
}
