//! Two nodes joined by one veth pair, and what each contender makes of them.
//!
//! In: the name of a lab. Out: a standing [`Topology`]. Never: a difference between two contenders in anything below
//! the pods' network: the nodes, the link between them and the pods' own side are built by the same code.

mod bridge;
mod host;
mod margay;
mod reader;
mod routed;

use std::{io::Write, net::Ipv4Addr, process::Stdio};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use margay_maps::{Mac, overlay};

use crate::{Lab, LabBuilder, Place, netlink::Netlink, wiring, wiring::POD_MTU};

pub(super) use self::{
    bridge::{FLANNEL_RULES, bridge},
    host::host,
    margay::margay,
    reader::Reader,
    routed::routed,
};

/// The two nodes.
const NODES: [&str; 2] = ["a", "b"];
/// Pods: one that asks, one on the other node that answers, one on its own node that answers.
const CLIENT: &str = "client";
const REMOTE: &str = "remote";
const LOCAL: &str = "local";

/// One who asks and one who answers.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Who asks, or sends.
    pub client: Place,
    /// Who answers, or receives.
    pub server: Place,
}

/// A network that stands until this is dropped.
#[derive(Debug)]
pub(super) struct Topology {
    /// Who reads along; gone before the lab is.
    pub readers: Vec<Reader>,
    /// The namespaces.
    pub lab: Lab,
    /// From one node to the other.
    pub across: Pair,
    /// On one node; `None` where that has no meaning.
    pub same: Option<Pair>,
}

// === impl Topology ===

impl Topology {
    /// Of a lab whose pods are the three that [`with_pods`] names.
    fn of_pods(lab: Lab) -> Result<Self> {
        let pair = |server| Ok::<_, anyhow::Error>(Pair { client: lab.pod(CLIENT)?, server: lab.pod(server)? });
        let (across, same) = (pair(REMOTE)?, Some(pair(LOCAL)?));
        Ok(Self { readers: Vec::new(), lab, across, same })
    }

    /// Every place that a load runs in.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let pairs = [Some(&self.across), self.same.as_ref()];
        pairs.into_iter().flatten().flat_map(|pair| [&pair.client, &pair.server])
    }
}

/// Two nodes.
fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node(NODES[0]).node(NODES[1])
}

/// Two nodes and three pods, wired as the lab wires pods: a /32 each, and a gateway that is nobody. Labels say who asks and
/// who answers.
fn with_pods(name: &str) -> LabBuilder {
    let [client, server] = [["role", "client"], ["role", "server"]];
    let builder = two_nodes(name).pod(CLIENT).label(client[0], client[1]).on(NODES[0]);
    let builder = builder.pod(LOCAL).label(server[0], server[1]).on(NODES[0]);
    builder.pod(REMOTE).label(server[0], server[1]).on(NODES[1])
}

/// The address of a node's block that is `offset` above the first.
fn address(lab: &Lab, node: &str, offset: u32) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from_bits(block(lab, node)?.network().to_bits() + offset))
}

fn block(lab: &Lab, node: &str) -> Result<Ipv4Net> {
    let node = lab.cluster().nodes.get(node).with_context(|| format!("there is no node {node}"))?;
    node.blocks.first().copied().context("the node has no block")
}

/// The node beside this one.
fn other(node: &str) -> &'static str {
    if node == NODES[0] { NODES[1] } else { NODES[0] }
}

/// Joins the nodes' blocks by the kernel's own VXLAN device, with static entries: one route, one neighbour and one
/// forwarding entry for the other node, as Flannel and Calico keep them. `vni` and `port` differ between the two.
fn kernel_vxlan(lab: &Lab, node: &str, device: &str, vni: u32, port: u16) -> Result<()> {
    let (here, there) = (lab.node(node)?, lab.node(other(node))?);
    let netlink = Netlink::open(&here.namespace)?;
    netlink.add_vxlan(device, vni, here.address, port, vtep_mac(node), POD_MTU)?;
    netlink.add_address(device, Ipv4Net::from(address(lab, node, 0)?))?;
    let gateway = address(lab, other(node), 0)?;
    netlink.add_route(Ipv4Net::from(gateway), None, device)?;
    netlink.add_route(block(lab, other(node))?, Some(gateway), device)?;
    netlink.set_neighbour(device, gateway, vtep_mac(other(node)))?;
    netlink.set_vxlan_peer(device, vtep_mac(other(node)), there.address)?;
    wiring::set_sysctl(&here.namespace, "net/ipv4/ip_forward", "1")
}

/// The MAC of a node's VXLAN device: locally administered, and the node's letter.
fn vtep_mac(node: &str) -> Mac {
    Mac { bytes: [0x66, 0, 0, 0, 0, node.as_bytes().first().copied().unwrap_or_default()] }
}

/// What MTU pods have, as the lab's own.
const _: () = assert!(POD_MTU + overlay::OVERHEAD_V4 == wiring::UNDERLAY_MTU);

/// The program that loads netfilter rules; netlink calls for that are not worth their while here.
pub(super) const NFT: &str = "nft";

/// Loads netfilter rules in a node's namespace.
fn load_rules(place: &Place, rules: &str) -> Result<()> {
    let mut command = place.namespace.command(NFT);
    let command = command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {NFT}"))?;
    let mut stdin = child.stdin.take().context("the program has no standard input")?;
    stdin.write_all(rules.as_bytes()).with_context(|| format!("writing to {NFT}"))?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{NFT} on node {}: {}", place.name, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
