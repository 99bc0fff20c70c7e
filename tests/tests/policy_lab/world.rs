//! A machine beside the nodes, with every address outside. In: a lab with a bridge between its nodes. Out: places with those
//! addresses. Never: an address that is a node's or a pod's.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use ipnet::Ipv4Net;
use margay_lab::{
    Lab, Namespace, Place,
    netlink::{Netlink, VethEnd, add_veth},
    oracle::{End, tables::cases},
    wiring::{self, DEVICE},
};

/// Its address among the nodes.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 200);
/// The ranges that are outside in the tables.
const RANGES: [&str; 2] = ["203.0.113.0/24", "198.51.100.0/24"];

/// The machine.
pub struct World {
    namespace: Namespace,
    ranges: Vec<Ipv4Net>,
}

// === impl World ===

impl World {
    /// Joins the bridge; nodes and the machine learn the way to each other.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn beside(lab: &Lab) -> Result<Self> {
        let underlay = Namespace::open(&lab.name().underlay())?;
        let namespace = Namespace::create(&format!("{}_world", lab.name().prefix()))?;
        let end = |namespace, name| VethEnd { namespace, name, mtu: wiring::UNDERLAY_MTU, mac: None };
        add_veth(&end(&namespace, DEVICE), &end(&underlay, "world"))?;
        let bridge = Netlink::open(&underlay)?;
        bridge.set_master("world", "br0")?;
        bridge.up("world")?;
        let netlink = Netlink::open(&namespace)?;
        netlink.up("lo")?;
        netlink.add_address(DEVICE, Ipv4Net::new(ADDRESS, 24)?)?;
        netlink.up(DEVICE)?;

        let ranges: Vec<Ipv4Net> = RANGES.iter().map(|r| r.parse()).collect::<Result<_, _>>()?;
        let world = Self { namespace, ranges };
        for address in world.asked_for() {
            netlink.add_address(DEVICE, Ipv4Net::from(address))?;
        }
        for (node, place) in &lab.cluster().nodes {
            place.blocks.iter().try_for_each(|block| netlink.add_route(*block, Some(place.address), DEVICE))?;
            let netlink = Netlink::open(&lab.node(node)?.namespace)?;
            world.ranges.iter().try_for_each(|range| netlink.add_route(*range, Some(ADDRESS), DEVICE))?;
        }
        Ok(world)
    }

    /// Whoever has this address outside.
    pub fn at(&self, address: IpAddr) -> Option<Place> {
        let IpAddr::V4(address) = address else { return None };
        let outside = self.ranges.iter().any(|range| range.contains(&address));
        let namespace = self.namespace.clone();
        outside.then(|| Place { name: address.to_string(), address, node: String::new(), namespace })
    }

    /// Whether a place is one of this machine's.
    pub fn is(&self, place: &Place) -> bool {
        self.ranges.iter().any(|range| range.contains(&place.address))
    }

    fn asked_for(&self) -> Vec<Ipv4Addr> {
        let ends = cases().flat_map(|case| case.cells).flat_map(|cell| [cell.flow.from, cell.flow.to]);
        let addresses = ends.filter_map(|end| match end {
            End::Address(address) => Some(self.at(address)?.address),
            End::Pod(_) | End::Node(_) => None,
        });
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
