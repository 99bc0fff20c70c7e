//! The network between the nodes of a cluster. In: a cluster's name. Out: a bridge in the control plane's namespace, a veth
//! from it to each node, and one to this machine, so that kubectl reaches the API server. Never: a pod's network.
//!
//! ```text
//!  mgy-NAME-NODE            mgy-NAME-_control               this machine
//!    eth0 10.200.0.11/24 ── veth ── br0 10.200.0.1/24
//!                                   host 198.18.x.y+1/30 ── veth ── mgkXXXXXXXX 198.18.x.y+2/30
//! ```

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::Ipv4Net;

use crate::{
    names::LabName,
    netlink::{Netlink, VethEnd, add_veth},
    netns::Namespace,
    wiring::{DEVICE, UNDERLAY_MTU, set_sysctl},
};

/// The control plane's address among the nodes, which is their gateway too.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The length of the nodes' prefix.
const PREFIX: u8 = 24;
/// The bridge in the control plane's namespace.
pub(super) const BRIDGE: &str = "br0";
/// The control plane's end of the link to this machine.
const OUTSIDE: &str = "host";
/// For links to this machine: benchmarks' addresses (RFC 2544), which are in nobody's use.
const OUTSIDE_RANGE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// How many /30 are in it.
const OUTSIDE_LINKS: u32 = 1 << (30 - 15);

/// The control plane's network namespace.
pub(super) fn control(cluster: &LabName) -> String {
    format!("{}_control", cluster.prefix())
}

/// The address of node number `index`, from 0.
///
/// # Errors
/// There are too many nodes.
pub(super) fn node_address(index: usize) -> Result<Ipv4Addr> {
    match u8::try_from(index) {
        Ok(index) if index <= 200 => Ok(Ipv4Addr::new(10, 200, 0, 11 + index)),
        _ => bail!("a cluster has 200 nodes at most"),
    }
}

/// A free address for the API server on the link to this machine. The other end has the next one.
///
/// # Errors
/// All are taken.
pub(super) fn choose_external(cluster: &LabName) -> Result<Ipv4Addr> {
    let start = hash(cluster) % OUTSIDE_LINKS;
    let links = (0..OUTSIDE_LINKS).map(|i| (start + i) % OUTSIDE_LINKS);
    let mut addresses = links.map(|link| Ipv4Addr::from_bits(OUTSIDE_RANGE.to_bits() + 4 * link + 1));
    // Who can bind an address has it.
    let free = |address: &Ipv4Addr| UdpSocket::bind((next(*address), 0)).is_err();
    addresses.find(free).context("choosing an address for an API server: all of 198.18.0.0/15 are taken")
}

fn next(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() + 1)
}

/// FNV-1a: the same in every process, and good enough to keep clusters apart.
fn hash(cluster: &LabName) -> u32 {
    cluster.as_str().bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Makes the control plane's namespace with the bridge and the link to this machine.
///
/// # Errors
/// The kernel refuses; what has been made by then stays.
pub(super) fn make_control(cluster: &LabName, external: Ipv4Addr) -> Result<()> {
    let control = Namespace::create(&control(cluster))?;
    let inside = Netlink::open(&control)?;
    inside.up("lo")?;
    inside.add_bridge(BRIDGE, UNDERLAY_MTU)?;
    inside.add_address(BRIDGE, Ipv4Net::new(GATEWAY, PREFIX).context("the nodes' prefix")?)?;
    set_sysctl(&control, "net/ipv4/ip_forward", "1")?;

    let here = Namespace::current()?;
    let name = outside(cluster);
    add_veth(&end(&here, &name), &end(&control, OUTSIDE))?;
    let machine = Netlink::open(&here)?;
    for (netlink, device, address) in [(&inside, OUTSIDE, external), (&machine, name.as_str(), next(external))] {
        netlink.add_address(device, Ipv4Net::new(address, 30).context("a link's prefix")?)?;
        netlink.up(device)?;
    }
    Ok(())
}

/// Removes the link to this machine. It would go with the control plane's namespace, but the kernel takes its time for that, and the next
/// cluster of the name would find it.
///
/// On a thread of its own: a cluster is taken down when it goes out of scope, which may be within a runtime, and that must not wait for
/// another one's.
///
/// # Errors
/// Netlink fails.
pub(super) fn remove_link(cluster: &LabName) -> Result<()> {
    let name = outside(cluster);
    let remove = || {
        let machine = Netlink::open(&Namespace::current()?)?;
        if machine.find(&name)?.is_some() { machine.delete(&name) } else { Ok(()) }
    };
    thread::scope(|scope| scope.spawn(remove).join().map_err(|_| anyhow!("the thread panicked"))?)
}

/// The machine's end of the link to the control plane.
fn outside(cluster: &LabName) -> String {
    format!("mgk{:08x}", hash(cluster))
}

/// Makes a node's namespace and joins it to the bridge.
///
/// # Errors
/// The kernel refuses; what has been made by then stays.
pub(super) fn make_node(cluster: &LabName, node: &str, address: Ipv4Addr) -> Result<()> {
    let namespace = Namespace::create(&cluster.node(node))?;
    let control = Namespace::open(&control(cluster))?;
    let port = format!("node{}", address.octets()[3]);
    add_veth(&end(&namespace, DEVICE), &end(&control, &port))?;
    let bridge = Netlink::open(&control)?;
    bridge.set_master(&port, BRIDGE)?;
    bridge.up(&port)?;
    let inside = Netlink::open(&namespace)?;
    inside.up("lo")?;
    inside.add_address(DEVICE, Ipv4Net::new(address, PREFIX).context("the nodes' prefix")?)?;
    inside.up(DEVICE)?;
    inside.add_route(Ipv4Net::default(), Some(GATEWAY), DEVICE)?;
    set_sysctl(&namespace, "net/ipv4/ip_forward", "1")
}

fn end<'a>(namespace: &'a Namespace, name: &'a str) -> VethEnd<'a> {
    VethEnd { namespace, name, mtu: UNDERLAY_MTU, mac: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_link_are_in_the_range() {
        let range: Ipv4Net = "198.18.0.0/15".parse().unwrap();
        for link in [0, OUTSIDE_LINKS - 1] {
            let address = Ipv4Addr::from_bits(OUTSIDE_RANGE.to_bits() + 4 * link + 1);
            assert!(range.contains(&address) && range.contains(&next(address)), "{address}");
        }
    }

    #[test]
    fn nodes_have_the_gateways_prefix() {
        let range = Ipv4Net::new(GATEWAY, PREFIX).unwrap();
        assert!(range.contains(&node_address(0).unwrap()) && range.contains(&node_address(200).unwrap()));
        assert!(node_address(201).is_err());
    }
}
