//! The world that the golden packets live in: this node with three pods, another node with one block.

use std::net::Ipv4Addr;

use anyhow::Result;
use margay_maps::{
    Addr, Config, Endpoint, EndpointKind, Features, Mac, Node, PrefixKey, Route, RouteKind, overlay, user::Maps,
};

/// This node.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The other node.
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// The router by which the other node is reached.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
/// A machine that is no node of the cluster.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 66);
/// The pod that sends: BPF_PROG_TEST_RUN takes the loopback device, index 1, for the packet's interface.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// Another pod here.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
/// A pod here whose MAC is not known.
pub const FACELESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 4);
/// An address of this node's block that no pod has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 99);
/// A pod of the other node.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
/// Somebody outside the cluster.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// The interfaces of the pods.
pub const POD_IFINDEX: u32 = 1;
/// Of [`NEIGHBOUR`].
pub const NEIGHBOUR_IFINDEX: u32 = 7;

/// Their slots in `enforcement`.
pub const POD_SLOT: u32 = 1;
/// Of [`NEIGHBOUR`].
pub const NEIGHBOUR_SLOT: u32 = 2;

/// The pods' MACs.
pub const POD_MAC: Mac = Mac { bytes: [2, 0, 0, 0, 0, 2] };
/// Of [`NEIGHBOUR`].
pub const NEIGHBOUR_MAC: Mac = Mac { bytes: [2, 0, 0, 0, 0, 3] };
/// This node's overlay device.
pub const OVERLAY_MAC: Mac = Mac { bytes: [0x66, 0, 0, 0, 0, 1] };
/// The other node's.
pub const OTHER_OVERLAY_MAC: Mac = Mac { bytes: [0x66, 0, 0, 0, 0, 2] };

/// The largest IP packet of the overlay, in bytes.
pub const OVERLAY_MTU: u32 = 1450;

/// Writes the world into the maps. `features`: as the kernel has them.
///
/// # Errors
/// A map refused.
pub fn fill(maps: &Maps, features: Features) -> Result<()> {
    maps.config.insert(
        &0,
        &Config {
            node: NODE.into(),
            overlay_ifindex: 9,
            overlay_mtu: OVERLAY_MTU,
            features,
            vni: overlay::VNI,
            port_be: overlay::PORT.to_be_bytes(),
            mac: OVERLAY_MAC,
            generation: 1,
            service_generation: 0,
        },
    )?;
    let pod = |ifindex, mac, slot| Endpoint { kind: EndpointKind::Workload, ifindex, mac, pad: [0; 2], slot };
    let host = Endpoint { kind: EndpointKind::Host, ..Endpoint::default() };
    maps.endpoints.insert(&POD.into(), &pod(POD_IFINDEX, POD_MAC, POD_SLOT))?;
    maps.endpoints.insert(&NEIGHBOUR.into(), &pod(NEIGHBOUR_IFINDEX, NEIGHBOUR_MAC, NEIGHBOUR_SLOT))?;
    maps.endpoints.insert(&FACELESS.into(), &pod(8, Mac::ZERO, 3))?;
    maps.endpoints.insert(&NODE.into(), &host)?;

    maps.nodes.insert(&OTHER_NODE.into(), &Node { mac: OTHER_OVERLAY_MAC, pad: [0; 2] })?;
    let remote = Route {
        kind: RouteKind::Remote,
        ifindex: 1,
        node: OTHER_NODE.into(),
        next_hop: NEXT_HOP.into(),
        mac: OTHER_OVERLAY_MAC,
        pad: [0; 2],
    };
    maps.routes.insert(&block(Ipv4Addr::new(10, 244, 1, 0)), &Route::default())?;
    maps.routes.insert(&block(Ipv4Addr::new(10, 244, 2, 0)), &remote)?;
    maps.routes.insert(&PrefixKey::host(OTHER_NODE.into()), &remote)?;
    Ok(())
}

/// A /24.
fn block(network: Ipv4Addr) -> PrefixKey {
    PrefixKey { prefix_len: 96 + 24, addr: Addr::from(network) }
}
