//! The plan as a whole: who this node is, and one call for each part of it.

use std::net::IpAddr;

use margay_maps::{Config, overlay};

use super::devices::{self, Uplinks};
use super::peers::{self, Peer};
use super::{HostView, Options, OverlayDevice, Plan, capacity, entries, host_routes, nat};
use crate::model::{self, Model};
use crate::problem::Problem;

/// What every part of the plan looks at.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub model: &'a Model,
    pub host: &'a HostView,
    pub options: &'a Options,
    /// This node, if the model knows it.
    pub node: Option<&'a model::Node>,
    /// The address that it sends overlay packets from: its first of IPv4.
    pub address: Option<IpAddr>,
    /// The address of its overlay device.
    pub overlay_address: Option<IpAddr>,
}

/// What should be, given the cluster, the kernel and the operator's choices.
///
/// Without the own Node object, or its address, there is no overlay and `config` is zero, so that the programs send nothing to
/// other nodes; pods of this node still reach each other.
pub fn plan(model: &Model, host: &HostView, options: &Options) -> Plan {
    let context = Context::new(model, host, options);
    let mut problems: Vec<Problem> = context.own_problem().into_iter().collect();
    let peers = peers::find(&context, &mut problems);
    let uplinks = devices::uplinks(&context, &peers, &mut problems);
    let mut plan = Plan {
        endpoints: entries::endpoints(&context),
        routes: entries::routes(&context, &peers),
        nodes: entries::nodes(&context),
        host_routes: host_routes::all(&context, &peers),
        nat: nat::nat(model),
        sysctls: devices::sysctls(&context),
        attachments: devices::attachments(&context, &uplinks),
        waiting: entries::waiting(&context),
        pods: entries::pods(&context),
        ..Plan::default()
    };
    if let (Some(node), Some(address)) = (context.node, context.address) {
        let mtu = overlay_mtu(&context, &uplinks, &peers);
        plan.config = Config {
            node: address.into(),
            overlay_ifindex: context.overlay_ifindex().unwrap_or_default(),
            overlay_mtu: mtu,
            features: options.features,
            vni: options.vni,
            port_be: options.port.to_be_bytes(),
            mac: node.overlay_mac,
            // Raised when it is applied.
            generation: 0,
            service_generation: 0,
        };
        plan.overlay =
            Some(OverlayDevice { mac: node.overlay_mac, mtu, port: options.port, address: context.overlay_address });
    }
    plan.overfull = capacity::overfull(&plan, &mut problems);
    problems.sort();
    problems.dedup();
    Plan { problems, ..plan }
}

/// Bytes of an IP packet that Ethernet carries (RFC 894): the uplink's MTU while no uplink is known.
const ETHERNET_MTU: u32 = 1_500;

/// The smallest of the MTUs that a packet to another node could meet here, less what VXLAN adds to it.
fn overlay_mtu(context: &Context<'_>, uplinks: &Uplinks, peers: &[Peer<'_>]) -> u32 {
    let ways = uplinks.iter().copied().chain(peers.iter().map(|peer| peer.ifindex));
    let mtus = ways.filter_map(|ifindex| context.host.interfaces.get(&ifindex)).map(|interface| interface.mtu);
    mtus.min().unwrap_or(ETHERNET_MTU).saturating_sub(overlay::OVERHEAD_V4)
}

// === impl Context ===

impl<'a> Context<'a> {
    fn new(model: &'a Model, host: &'a HostView, options: &'a Options) -> Self {
        let node = model.nodes.get(&options.node_name);
        let first = |addresses: &[IpAddr]| addresses.iter().copied().find(IpAddr::is_ipv4);
        Self {
            model,
            host,
            options,
            node,
            address: node.and_then(|node| first(&node.addresses)),
            overlay_address: node.and_then(|node| first(&node.overlay_addresses)),
        }
    }

    /// The own address, if this machine has it: the kernel takes no other for the source of a route.
    pub fn address_on_host(&self) -> Option<IpAddr> {
        self.address.filter(|own| self.host.addresses.iter().any(|(ip, _)| ip == own))
    }

    /// The overlay device, if it is there.
    pub fn overlay_ifindex(&self) -> Option<u32> {
        self.ifindex(overlay::DEVICE)
    }

    /// An interface by its name.
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        self.host.interfaces.iter().find(|(_, interface)| interface.name == name).map(|(ifindex, _)| *ifindex)
    }

    fn own_problem(&self) -> Option<Problem> {
        let name = &self.options.node_name;
        let object = format!("Node {name}");
        match (self.node, self.address, self.address_on_host()) {
            (None, _, _) => Some(Problem::new(
                object,
                "this node's own object does not exist; nothing can be sent to other nodes",
                "create it, or name the right one with --node-name",
            )),
            (_, None, _) => Some(Problem::new(
                object,
                "this node has no IPv4 address of its own; nothing can be sent to other nodes",
                "give it an address of type InternalIP in status.addresses, or annotate it with projectcalico.org/IPv4Address",
            )),
            (_, Some(address), None) => Some(Problem::new(
                object,
                format!("its address {address} is on no interface of this machine; other nodes cannot answer"),
                "name the right node with --node-name, or correct status.addresses",
            )),
            (_, _, Some(_)) => None,
        }
    }
}
