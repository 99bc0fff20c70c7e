//! Namespaces and devices of a lab. In: a [`Cluster`]. Out: what a machine room, a kubelet and a CNI plugin would have
//! made of it. Never: anything that is the agent's to make (programs, the overlay device, routes to pods, sysctls of
//! nodes).
//!
//! ```text
//!  mgy-LAB-NODE                                  mgy-LAB-NAMESPACE_POD
//!    eth0   InternalIP, MTU 1500                   eth0  podIP/32, MTU 1450
//!    caliX  ee:ee:ee:ee:ee:ee, MTU 1450  ── veth ──      default via 169.254.1.1
//!    lo     up                                     lo    up
//! ```
//! The `eth0` of exactly two nodes are the two ends of one veth pair. Otherwise each is joined to the bridge `br0` in
//! `mgy-LAB-_underlay`.

use std::{fs, io, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use margay_loader::names::workload_interface;
use margay_maps::{Mac, overlay};

use crate::{
    cluster::{Cluster, Node, Pod},
    names::{LabName, PodName},
    netlink::{Netlink, VethEnd, add_veth},
    netns::Namespace,
};

/// The device of a node that leads to the other nodes, and the device of a pod.
pub const DEVICE: &str = "eth0";
/// The MTU between nodes, in bytes: Ethernet's.
pub const UNDERLAY_MTU: u32 = 1500;
/// The MTU of pods, in bytes: what fits into VXLAN over the underlay.
pub const POD_MTU: u32 = UNDERLAY_MTU - overlay::OVERHEAD_V4;
/// Calico's gateway of every pod; nobody has the address, eBPF answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The bridge in the underlay's namespace.
const BRIDGE: &str = "br0";

/// Makes all nodes and the links between them.
///
/// # Errors
/// The kernel refuses; what has been made by then stays.
pub fn build_nodes(lab: &LabName, cluster: &Cluster) -> Result<()> {
    for name in cluster.nodes.keys() {
        let node = Namespace::create(&lab.node(name))?;
        Netlink::open(&node)?.up("lo")?;
    }
    let prefix = cluster.underlay_prefix();
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    if let [(a, _), (b, _)] = nodes[..] {
        let (a, b) = (Namespace::open(&lab.node(a))?, Namespace::open(&lab.node(b))?);
        add_veth(&uplink_of(&a), &uplink_of(&b))?;
    } else {
        let bridge = Namespace::create(&lab.underlay())?;
        Netlink::open(&bridge)?.add_bridge(BRIDGE, UNDERLAY_MTU)?;
        for (index, (name, _)) in nodes.iter().enumerate() {
            join_bridge(lab, name, index)?;
        }
    }
    nodes.into_iter().try_for_each(|(name, node)| give_address(lab, name, node, prefix))
}

/// Makes a node that has come later.
///
/// # Errors
/// The lab has two nodes, which are joined directly; or the kernel refuses.
pub fn add_node(lab: &LabName, name: &str, cluster: &Cluster) -> Result<()> {
    if Namespace::open(&lab.underlay()).is_err() {
        bail!("adding node {name}: the two nodes of lab {lab} are joined directly; take the lab down and up again");
    }
    let node = &cluster.nodes[name];
    Netlink::open(&Namespace::create(&lab.node(name))?)?.up("lo")?;
    let bridge = Netlink::open(&Namespace::open(&lab.underlay())?)?;
    let free = (0..).find(|i| matches!(bridge.find(&port(*i)), Ok(None))).unwrap_or_default();
    join_bridge(lab, name, free)?;
    give_address(lab, name, node, cluster.underlay_prefix())
}

/// Gives a node another address.
///
/// # Errors
/// The kernel refuses.
pub fn readdress_node(lab: &LabName, name: &str, was: Ipv4Addr, cluster: &Cluster) -> Result<()> {
    // In this order: a second address of one network goes with the first.
    Netlink::open(&Namespace::open(&lab.node(name))?)?.delete_address(DEVICE, was)?;
    give_address(lab, name, &cluster.nodes[name], cluster.underlay_prefix())
}

/// A node's end of its link. The kernel chooses its MAC.
fn uplink_of(namespace: &Namespace) -> VethEnd<'_> {
    VethEnd { namespace, name: DEVICE, mtu: UNDERLAY_MTU, mac: None }
}

/// The bridge's port number `index`.
fn port(index: usize) -> String {
    format!("port{index}")
}

fn join_bridge(lab: &LabName, node: &str, index: usize) -> Result<()> {
    let (bridge, node) = (Namespace::open(&lab.underlay())?, Namespace::open(&lab.node(node))?);
    let port = port(index);
    add_veth(&uplink_of(&node), &VethEnd { namespace: &bridge, name: &port, mtu: UNDERLAY_MTU, mac: None })?;
    let bridge = Netlink::open(&bridge)?;
    bridge.set_master(&port, BRIDGE)?;
    bridge.up(&port)
}

fn give_address(lab: &LabName, name: &str, node: &Node, prefix: u8) -> Result<()> {
    let netlink = Netlink::open(&Namespace::open(&lab.node(name))?)?;
    let address = Ipv4Net::new(node.address, prefix).context("the underlay's prefix")?;
    netlink.add_address(DEVICE, address)?;
    netlink.up(DEVICE)
}

/// Makes a pod: what the kubelet and a CNI plugin do.
///
/// # Errors
/// The kernel refuses; nothing of the pod is left then.
pub fn add_pod(lab: &LabName, name: &PodName, pod: &Pod) -> Result<()> {
    let wire = || -> Result<()> {
        let node = Namespace::open(&lab.node(&pod.node))?;
        let namespace = Namespace::create(&lab.pod(name))?;
        no_ipv6(&namespace)?;
        let host_side = workload_interface(&name.namespace, &name.name);
        add_veth(
            &VethEnd { namespace: &node, name: &host_side, mtu: POD_MTU, mac: Some(Mac::GATEWAY) },
            &VethEnd { namespace: &namespace, name: DEVICE, mtu: POD_MTU, mac: None },
        )?;
        let inside = Netlink::open(&namespace)?;
        inside.up("lo")?;
        inside.add_address(DEVICE, Ipv4Net::from(pod.address))?;
        inside.up(DEVICE)?;
        inside.add_route(Ipv4Net::from(GATEWAY), None, DEVICE)?;
        inside.add_route(Ipv4Net::default(), Some(GATEWAY), DEVICE)?;
        Netlink::open(&node)?.up(&host_side)?;
        inside.until_it_sends(DEVICE)
    };
    wire().with_context(|| format!("wiring pod {name} on node {}", pod.node)).inspect_err(|_| {
        // So that it can be tried again; the error above is the one to report.
        let _ = remove_pod(lab, name, pod);
    })
}

/// Takes a pod away: what a CNI plugin does at DEL. No error if there is none.
///
/// # Errors
/// The kernel refuses.
pub fn remove_pod(lab: &LabName, name: &PodName, pod: &Pod) -> Result<()> {
    let node = Netlink::open(&Namespace::open(&lab.node(&pod.node))?)?;
    let host_side = workload_interface(&name.namespace, &name.name);
    if node.find(&host_side)?.is_some() {
        node.delete(&host_side)?;
    }
    Namespace::remove(&lab.pod(name))
}

/// Pods have IPv4 alone, so they are not to fill the counters with router solicitations.
fn no_ipv6(namespace: &Namespace) -> Result<()> {
    set_sysctl(namespace, "net/ipv6/conf/all/disable_ipv6", "1").or_else(|error| {
        let absent = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
        if absent { Ok(()) } else { Err(error) }
    })
}

/// Writes a file below `/proc/sys`, as seen from inside the namespace.
///
/// # Errors
/// There is no such file, or the value does not suit it.
pub fn set_sysctl(namespace: &Namespace, file: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(file);
    namespace.run(|| {
        fs::write(&path, value)
            .with_context(|| format!("writing {value} to {} in {}", path.display(), namespace.name()))
    })
}

/// Reads a file below `/proc/sys`, as seen from inside the namespace.
///
/// # Errors
/// There is no such file.
pub fn sysctl(namespace: &Namespace, file: &str) -> Result<String> {
    let path = Path::new("/proc/sys").join(file);
    namespace.run(|| {
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {} in {}", path.display(), namespace.name()))?;
        Ok(text.trim_end().to_owned())
    })
}
