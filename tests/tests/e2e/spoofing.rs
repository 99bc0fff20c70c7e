//! Nobody speaks for others: what a pod or a stranger forges is dropped, counted under its reason, and seen by nobody.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    netlink::Netlink,
    probe::{Capture, packet, send_frame},
    wiring::DEVICE,
};
use margay_loader::names::{overlay_mac, workload_interface};
use margay_maps::{DropReason, Mac, overlay};

/// Marks what must not arrive.
const MARK: &[u8] = b"forged by a test of margay";
/// Nobody's (RFC 5737, TEST-NET-3).
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// How long to look for what must not come. What comes takes microseconds.
const LOOK: Duration = Duration::from_millis(200);

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

fn marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|w| w == MARK)
}

/// A pod sends a packet to another with a source that is not its own.
fn forged(source: Ipv4Addr, to: &Place) -> Vec<u8> {
    let ip = packet::Ipv4::new(source, to.address, packet::UDP, &packet::udp(1, 9, MARK)).bytes();
    packet::ethernet(Mac::GATEWAY, Mac { bytes: [2, 0, 0, 0, 0, 1] }, packet::ETH_IPV4, &ip)
}

#[test]
fn a_pod_cannot_send_from_others_addresses() {
    two_nodes("spoof_source").test(|lab| {
        let (x, near, far, a) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?, lab.node("a")?);
        for victim in [&near, &far, &a] {
            let mut seen = Capture::start(&victim.namespace, DEVICE)?;
            for source in [STRANGER, near.address, far.address, a.address, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
                let frame = forged(source, victim);
                lab.drops_with("a", DropReason::SpoofedSource, || send_frame(&x.namespace, DEVICE, &frame))?;
            }
            ensure!(seen.wait_for(LOOK, marked)?.is_none(), "{victim} saw a forged packet");
        }
        // The same packet with the pod's own address does arrive, so the others were dropped for their source.
        let mut seen = Capture::start(&far.namespace, DEVICE)?;
        send_frame(&x.namespace, DEVICE, &forged(x.address, &far))?;
        ensure!(seen.wait_for(LOOK, marked)?.is_some(), "an honest packet did not arrive");
        Ok(())
    });
}

#[test]
fn a_pod_gets_nothing_that_is_for_another_address() {
    two_nodes("spoof_route").test(|lab| {
        let (x, near, a) = (lab.pod("x")?, lab.pod("near")?, lab.node("a")?);
        // A route that somebody has left behind: the host's stack takes the pod for the stranger.
        let (netlink, device) = (Netlink::open(&a.namespace)?, workload_interface("default", "near"));
        netlink.add_route(STRANGER.into(), None, &device)?;
        netlink.set_neighbour(&device, STRANGER, Netlink::open(&near.namespace)?.mac(DEVICE)?)?;
        let mut seen = Capture::start(&near.namespace, DEVICE)?;
        let stranger = Place { address: STRANGER, ..lab.pod("far")? };
        let frame = forged(x.address, &stranger);
        lab.drops_with("a", DropReason::NoEndpoint, || send_frame(&x.namespace, DEVICE, &frame))?;
        ensure!(seen.wait_for(LOOK, marked)?.is_none(), "{near} saw a stranger's packet");
        Ok(())
    });
}

#[test]
fn a_pod_cannot_answer_arp_for_others() {
    two_nodes("spoof_arp").test(|lab| {
        let (x, near) = (lab.pod("x")?, lab.pod("near")?);
        let mac = Netlink::open(&x.namespace)?.mac(DEVICE)?;
        let frame = packet::arp_request(mac, near.address, Ipv4Addr::new(169, 254, 1, 1));
        lab.drops_with("a", DropReason::ArpSpoofed, || send_frame(&x.namespace, DEVICE, &frame))?;
        lab.everything_reaches_everything()
    });
}

/// An inner packet from one pod to another, as VXLAN carries it to a node.
fn tunnelled(from: Ipv4Addr, to: &Place, node: &str) -> Vec<u8> {
    let ip = packet::Ipv4::new(from, to.address, packet::UDP, &packet::udp(1, 9, MARK)).bytes();
    let frame = packet::ethernet(overlay_mac(node), overlay_mac("elsewhere"), packet::ETH_IPV4, &ip);
    packet::udp(50_000, overlay::PORT, &packet::vxlan(overlay::VNI, &frame))
}

#[test]
fn a_pod_cannot_speak_vxlan_to_nodes() {
    two_nodes("spoof_pod_vxlan").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        for (node, victim) in [("a", &near), ("b", &far)] {
            let mut seen = Capture::start(&victim.namespace, DEVICE)?;
            let outer = tunnelled(STRANGER, victim, node);
            let ip = packet::Ipv4::new(x.address, lab.node(node)?.address, packet::UDP, &outer).bytes();
            let frame = packet::ethernet(Mac::GATEWAY, Mac::default(), packet::ETH_IPV4, &ip);
            lab.drops_with("a", DropReason::OverlayFromWorkload, || send_frame(&x.namespace, DEVICE, &frame))?;
            ensure!(seen.wait_for(LOOK, marked)?.is_none(), "{victim} saw a forged packet");
        }
        Ok(())
    });
}

/// Sends VXLAN from node a's wire to node b, with an outer source of our choice.
fn send_vxlan(lab: &Lab, outer_source: Ipv4Addr, inner_source: Ipv4Addr, to: &Place) -> Result<()> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let outer = tunnelled(inner_source, to, "b");
    let ip = packet::Ipv4::new(outer_source, b.address, packet::UDP, &outer).bytes();
    let (from, at) = (Netlink::open(&a.namespace)?.mac(DEVICE)?, Netlink::open(&b.namespace)?.mac(DEVICE)?);
    send_frame(&a.namespace, DEVICE, &packet::ethernet(at, from, packet::ETH_IPV4, &ip))
}

#[test]
fn vxlan_from_an_unknown_address_is_dropped() {
    two_nodes("spoof_stranger").test(|lab| {
        let (x, far, a) = (lab.pod("x")?, lab.pod("far")?, lab.node("a")?);
        let mut seen = Capture::start(&far.namespace, DEVICE)?;
        let near_by = Ipv4Addr::from_bits(a.address.to_bits() + 77);
        for stranger in [near_by, STRANGER] {
            lab.drops_with("b", DropReason::UnknownNode, || send_vxlan(lab, stranger, x.address, &far))?;
        }
        ensure!(seen.wait_for(LOOK, marked)?.is_none(), "a stranger's packet arrived");
        // From the node's own address it does, so it was the address.
        send_vxlan(lab, a.address, x.address, &far)?;
        ensure!(seen.wait_for(LOOK, marked)?.is_some(), "a node's packet did not arrive");
        Ok(())
    });
}

#[test]
fn a_node_does_not_pass_on_what_is_for_another() {
    two_nodes("spoof_relay").test(|lab| {
        let (x, near, a) = (lab.pod("x")?, lab.pod("near")?, lab.node("a")?);
        let mut seen = Capture::start(&near.namespace, DEVICE)?;
        // To b, although the pod is on a.
        lab.drops_with("b", DropReason::NotForThisNode, || send_vxlan(lab, a.address, x.address, &near))?;
        ensure!(seen.wait_for(LOOK, marked)?.is_none(), "b sent the packet back");
        Ok(())
    });
}

#[test]
fn a_node_that_has_left_is_a_stranger() {
    two_nodes("spoof_left").test(|lab| {
        let (x, far, a) = (lab.pod("x")?, lab.pod("far")?, lab.node("a")?);
        std::fs::remove_file(lab.manifests().join("node-a.yaml"))?;
        for pod in ["x", "near"] {
            std::fs::remove_file(lab.manifests().join(format!("pod-default_{pod}.yaml")))?;
        }
        lab.sync()?;
        margay_lab::observe::eventually("b forgets a", margay_lab::observe::REPAIR, || {
            ensure!(lab.maps("b")?.nodes.entries()?.is_empty());
            Ok(())
        })?;
        lab.drops_with("b", DropReason::UnknownNode, || send_vxlan(lab, a.address, x.address, &far))
    });
}
