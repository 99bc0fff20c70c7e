//! The cases, program by program.

use margay_maps::{DropReason, Hook, Outcome, overlay};

use super::{
    Case, Expect, expect,
    packet::{ETHER_TYPE, IP, OVERHEAD, arp, cut, inner, udp, udp_to, vxlan, with, with_options},
    world::{FACELESS, NEIGHBOUR, NOBODY, NODE, OTHER_NODE, OVERLAY_MTU, POD, REMOTE, STRANGER, WORLD},
};
use std::net::Ipv4Addr;

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// Calico's gateway of every pod.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// "Record route" with room for one address (RFC 791), padded to a word.
const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];

/// All of them.
pub fn cases() -> Vec<Case> {
    [
        from_workload_arp(),
        from_workload_routes(),
        from_workload_refuses(),
        to_workload(),
        overlay_device(),
        from_uplink(),
        super::services::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn case(hook: Hook, name: &'static str, packet: Vec<u8>, expect: Expect) -> Case {
    Case { name, hook, packet, expect }
}

fn from_workload_arp() -> Vec<Case> {
    use DropReason::{ArpForOwnAddress, ArpSpoofed, MalformedArp};
    let case = |name, packet, expect| case(Hook::FromWorkload, name, packet, expect);
    let answered = || Expect::Redirect(Outcome::Answered, expect::arp_answer);
    let request = |target| arp(ARP_REQUEST, POD, target);
    vec![
        case("ARP for the gateway is answered", request(GATEWAY), answered()),
        case("ARP for anybody is answered", request(REMOTE), answered()),
        case("ARP probe of a foreign address is answered", arp(ARP_REQUEST, Ipv4Addr::UNSPECIFIED, REMOTE), answered()),
        case("ARP for the pod's own address is not", request(POD), Expect::Drop(ArpForOwnAddress)),
        case(
            "duplicate address detection finds nobody",
            arp(ARP_REQUEST, Ipv4Addr::UNSPECIFIED, POD),
            Expect::Drop(ArpForOwnAddress),
        ),
        case("ARP in another's name is dropped", arp(ARP_REQUEST, NEIGHBOUR, GATEWAY), Expect::Drop(ArpSpoofed)),
        case("ARP reply of the pod reaches the host", arp(ARP_REPLY, POD, NODE), Expect::Pass),
        case("ARP reply in another's name is dropped", arp(ARP_REPLY, NEIGHBOUR, NODE), Expect::Drop(ArpSpoofed)),
        case("ARP cut short is dropped", cut(request(GATEWAY), 41), Expect::Drop(MalformedArp)),
        case("ARP for another hardware is dropped", with(request(GATEWAY), 14, &[0, 6]), Expect::Drop(MalformedArp)),
        case("ARP with another operation is dropped", with(request(GATEWAY), 20, &[0, 9]), Expect::Drop(MalformedArp)),
    ]
}

fn from_workload_routes() -> Vec<Case> {
    let case = |name, packet, expect| case(Hook::FromWorkload, name, packet, expect);
    let delivered = || Expect::Redirect(Outcome::Delivered, expect::delivered_to_neighbour);
    let encapsulated = || Expect::Redirect(Outcome::Encapsulated, expect::encapsulated);
    let big = |excess: usize| udp(POD, REMOTE, 64, 53, OVERLAY_MTU as usize - 28 + excess);
    vec![
        case("a pod here gets the packet at once", udp_to(NEIGHBOUR), delivered()),
        case("the last hop but one is forwarded", udp(POD, NEIGHBOUR, 2, 53, 8), delivered()),
        case("a fragment is forwarded", with(udp_to(NEIGHBOUR), IP + 6, &[0x20, 0x00]), delivered()),
        case("a later fragment is forwarded", with(udp_to(NEIGHBOUR), IP + 6, &[0x00, 0xb9]), delivered()),
        case("a pod of another node is reached by VXLAN", udp_to(REMOTE), encapsulated()),
        case("another node itself is reached by VXLAN", udp_to(OTHER_NODE), encapsulated()),
        case("congestion marks go outside", with(udp_to(REMOTE), IP + 1, &[0xb9]), encapsulated()),
        case("what just fits is encapsulated", big(0), encapsulated()),
        case("a checksum whose sum wraps stays right", with(udp_to(REMOTE), IP + 4, &[0xff, 0xfe]), encapsulated()),
        case("what does not fit is the host's", big(1), Expect::Pass),
        case("a time to live that ends is the host's, here", udp(POD, NEIGHBOUR, 1, 53, 8), Expect::Pass),
        case("a time to live that ends is the host's, far", udp(POD, REMOTE, 1, 53, 8), Expect::Pass),
        case("no time to live at all is the host's", udp(POD, REMOTE, 0, 53, 8), Expect::Pass),
        case("IP options are the host's, here", with_options(&udp_to(NEIGHBOUR), &RECORD_ROUTE), Expect::Pass),
        case("IP options are the host's, far", with_options(&udp_to(REMOTE), &RECORD_ROUTE), Expect::Pass),
        case("a pod without a known MAC is the host's", udp_to(FACELESS), Expect::Pass),
        case("the node itself is the host's", udp_to(NODE), Expect::Pass),
        case("the world is the host's", udp_to(WORLD), Expect::Pass),
        case("VXLAN to another pod is that pod's business", udp(POD, REMOTE, 64, overlay::PORT, 64), encapsulated()),
    ]
}

fn from_workload_refuses() -> Vec<Case> {
    let case = |name, packet, reason| case(Hook::FromWorkload, name, packet, Expect::Drop(reason));
    let plain = || udp_to(NEIGHBOUR);
    let port = overlay::PORT;
    vec![
        case("a tagged frame", with(plain(), ETHER_TYPE, &[0x81, 0x00]), DropReason::VlanTagged),
        case("a doubly tagged frame", with(plain(), ETHER_TYPE, &[0x88, 0xa8]), DropReason::VlanTagged),
        case("IPv6", with(plain(), ETHER_TYPE, &[0x86, 0xdd]), DropReason::Ipv6NotSupported),
        case("LLDP", with(plain(), ETHER_TYPE, &[0x88, 0xcc]), DropReason::UnknownEtherType),
        case("an 802.3 frame", with(plain(), ETHER_TYPE, &[0x00, 0x40]), DropReason::UnknownEtherType),
        // (BPF_PROG_TEST_RUN takes no packet that ends inside its outer IPv4 header; the lab sends one.)
        case("version 5", with(plain(), IP, &[0x55]), DropReason::MalformedIp),
        case("a header of 16 bytes", with(plain(), IP, &[0x44]), DropReason::MalformedIp),
        case("a total length within the header", with(plain(), IP + 2, &[0, 19]), DropReason::MalformedIp),
        case("a total length past the end", with(plain(), IP + 2, &[1, 0]), DropReason::ShortIp),
        case("another pod's source", udp(NEIGHBOUR, REMOTE, 64, 53, 8), DropReason::SpoofedSource),
        case("the node's source", udp(NODE, REMOTE, 64, 53, 8), DropReason::SpoofedSource),
        case("a stranger's source", udp(WORLD, REMOTE, 64, 53, 8), DropReason::SpoofedSource),
        case("no source", udp(Ipv4Addr::UNSPECIFIED, REMOTE, 64, 67, 8), DropReason::SpoofedSource),
        case("multicast", udp_to(Ipv4Addr::new(224, 0, 0, 251)), DropReason::NotUnicast),
        case("broadcast", udp_to(Ipv4Addr::BROADCAST), DropReason::NotUnicast),
        case("loopback", udp_to(Ipv4Addr::LOCALHOST), DropReason::NotUnicast),
        case("the unspecified address", udp_to(Ipv4Addr::UNSPECIFIED), DropReason::NotUnicast),
        case("an address that no pod has", udp_to(NOBODY), DropReason::NoEndpoint),
        case("VXLAN to the own node", udp(POD, NODE, 64, port, 64), DropReason::OverlayFromWorkload),
        case("VXLAN to another node", udp(POD, OTHER_NODE, 64, port, 64), DropReason::OverlayFromWorkload),
        case("VXLAN to the world", udp(POD, WORLD, 64, port, 64), DropReason::OverlayFromWorkload),
        case(
            "VXLAN behind IP options",
            with_options(&udp(POD, NODE, 64, port, 64), &RECORD_ROUTE),
            DropReason::OverlayFromWorkload,
        ),
        case(
            "UDP that ends before its ports",
            with(cut(udp_to(NODE), IP + 22), IP + 2, &[0, 22]),
            DropReason::TruncatedTransport,
        ),
    ]
}

fn to_workload() -> Vec<Case> {
    let case = |name, packet, expect| case(Hook::ToWorkload, name, packet, expect);
    vec![
        case("the host's packet reaches the pod", udp(NODE, POD, 64, 53, 8), Expect::Pass),
        case("the host's ARP reaches the pod", arp(ARP_REQUEST, NODE, POD), Expect::Pass),
        case("IPv6 does not", with(udp_to(POD), ETHER_TYPE, &[0x86, 0xdd]), Expect::Drop(DropReason::Ipv6NotSupported)),
        case(
            "nor does a tagged frame",
            with(udp_to(POD), ETHER_TYPE, &[0x81, 0]),
            Expect::Drop(DropReason::VlanTagged),
        ),
    ]
}

fn overlay_device() -> Vec<Case> {
    use DropReason::{Ipv6NotSupported, MalformedIp, NoRemoteNode, NoTunnelKey};
    let from = |name, packet, reason| case(Hook::FromOverlay, name, packet, Expect::Drop(reason));
    let to = |name, packet, reason| case(Hook::ToOverlay, name, packet, Expect::Drop(reason));
    vec![
        // What carries tunnel data cannot be made by BPF_PROG_TEST_RUN; the lab's real packets show it.
        from("a packet that came through no tunnel", inner(REMOTE, POD, 64), NoTunnelKey),
        to("the host sends to an address that no node has", udp(NODE, WORLD, 64, 53, 8), NoRemoteNode),
        to("the host sends to a pod of its own by the overlay", udp(NODE, NEIGHBOUR, 64, 53, 8), NoRemoteNode),
        to("the host asks by ARP", arp(ARP_REQUEST, NODE, REMOTE), NoRemoteNode),
        to("the host sends IPv6", with(udp_to(REMOTE), ETHER_TYPE, &[0x86, 0xdd]), Ipv6NotSupported),
        to("the host sends nonsense", with(udp_to(REMOTE), IP, &[0x65]), MalformedIp),
    ]
}

fn from_uplink() -> Vec<Case> {
    let case = |name, packet, expect| case(Hook::FromUplink, name, packet, expect);
    let delivered = || Expect::Redirect(Outcome::Delivered, expect::decapsulated_for_pod);
    let drop = Expect::Drop;
    let good = |dst| vxlan(OTHER_NODE, NODE, overlay::VNI, &inner(REMOTE, dst, 64));
    let with_inner = |packet: Vec<u8>| vxlan(OTHER_NODE, NODE, overlay::VNI, &packet);
    let to_pod = || inner(REMOTE, POD, 64);
    let vxlan_at = IP + 20 + 8;
    vec![
        case("VXLAN for a pod is taken off and delivered", good(POD), delivered()),
        case("a fragment inside is delivered", with_inner(with(to_pod(), IP + 6, &[0x20, 0])), delivered()),
        case("the last hop but one is delivered", with_inner(inner(REMOTE, POD, 2)), delivered()),
        case("VXLAN for the node is the device's", good(NODE), Expect::Pass),
        case("VXLAN for nobody is the device's", good(NOBODY), Expect::Pass),
        case("VXLAN for a pod without a MAC is the device's", good(FACELESS), Expect::Pass),
        case("a time to live that ends is the device's", with_inner(inner(REMOTE, POD, 1)), Expect::Pass),
        case("IP options inside are the device's", with_inner(with_options(&to_pod(), &RECORD_ROUTE)), Expect::Pass),
        case("a congestion mark outside is the device's", with(good(POD), IP + 1, &[3]), Expect::Pass),
        case("another inner MAC is the device's", with_inner(with(to_pod(), 0, &[2; 6])), Expect::Pass),
        case("inner ARP is the device's", with_inner(arp(ARP_REQUEST, REMOTE, POD)), Expect::Pass),
        case("an outer fragment is the kernel's", with(good(POD), IP + 6, &[0x20, 0]), Expect::Pass),
        case("outer options are the kernel's", with_options(&good(POD), &RECORD_ROUTE), Expect::Pass),
        case("another VNI is somebody else's", vxlan(OTHER_NODE, NODE, 7, &to_pod()), Expect::Pass),
        case("VXLAN without a valid VNI is not ours", with(good(POD), vxlan_at, &[0]), Expect::Pass),
        case("VXLAN to another address is not ours", vxlan(OTHER_NODE, WORLD, overlay::VNI, &to_pod()), Expect::Pass),
        case("another port is not ours", with(good(POD), IP + 22, &[0x21, 0x18]), Expect::Pass),
        case("plain UDP is not ours", udp(OTHER_NODE, NODE, 64, 53, 64), Expect::Pass),
        case("ARP is not ours", arp(ARP_REQUEST, OTHER_NODE, NODE), Expect::Pass),
        case("a short frame is not ours", cut(good(POD), IP + 20), Expect::Pass),
        case(
            "VXLAN from a stranger is dropped",
            vxlan(STRANGER, NODE, overlay::VNI, &to_pod()),
            drop(DropReason::UnknownNode),
        ),
        case(
            "VXLAN from a pod is dropped",
            vxlan(REMOTE, NODE, overlay::VNI, &to_pod()),
            drop(DropReason::UnknownNode),
        ),
        case("inner nonsense is dropped", with_inner(with(to_pod(), IP, &[0x65])), drop(DropReason::MalformedIp)),
        case(
            "an inner header that is cut is dropped",
            with_inner(cut(to_pod(), IP + 12)),
            drop(DropReason::TruncatedIp),
        ),
        case("an inner length past the end is dropped", cut(good(POD), IP + OVERHEAD + 24), drop(DropReason::ShortIp)),
    ]
}
