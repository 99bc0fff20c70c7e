//! One function for each hook: from the packet to the verdict, in the order in which it is judged.

use aya_ebpf::{bindings::TC_ACT_SHOT, helpers::bpf_redirect_peer, programs::TcContext};
use margay_maps::{
    Addr, Config, DropReason, EndpointKind, Features, Half, Hook, Mac, Outcome, RouteKind, Way, mark, protocol::UDP,
};
use network_types::eth::EthHdr;

use crate::{
    arp,
    arrival::Arrival,
    count::{Verdict, finish},
    encap::{self, ECN_CE, OVERHEAD, Outer},
    flow::{Course, Refusal, follow},
    head::{self, Headers},
    ipv4::{ETHER_IPV4, Frame, Ipv4},
    lookup::{config, endpoint, is_node, is_own, route},
    packet::{Packet, put_mac},
    reject,
    rewrite::rewrite,
    tunnel::{read_tunnel, write_tunnel},
    tuple::Tuple,
};

/// Where the IP header stands in a frame without tags.
const IP: usize = EthHdr::LEN;

/// A pod sends.
#[inline(always)]
pub fn from_workload(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    let bytes = packet.bytes();
    let result = try_from_workload(&mut packet);
    if matches!(result, Ok(Verdict::PASS)) {
        packet.mark(mark::JUDGED);
    }
    finish(packet.skb(), Hook::FromWorkload, bytes, result)
}

#[inline(always)]
fn try_from_workload(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let Some(headers) = head::read(packet)? else { return arp::from_workload(packet) };
    let ifindex = packet.ifindex();
    let tuple = Tuple::read(packet, &headers, IP)?;
    let ip = headers.ip;
    if tuple.is_error() && !is_own(&Addr::from_v4(ip.src), ifindex) {
        return Err(DropReason::SpoofedSource);
    }
    match follow(tuple, Arrival::Workload(ifindex), packet.bytes()) {
        Ok(course) => {
            if tuple.has(Tuple::TO_BACKEND) {
                rewrite(packet, tuple, &ip, IP)?;
            }
            go(packet, &ip, course, tuple)
        }
        Err(Refusal::NoEndpoints) => reject::answer(packet, tuple, &ip, ifindex),
        Err(refusal) => refused(refusal),
    }
}

/// What the flow table refused.
#[inline(always)]
fn refused(refusal: Refusal) -> Result<Verdict, DropReason> {
    match refusal {
        Refusal::Drop(reason) => Err(reason),
        Refusal::NotForPods | Refusal::NoEndpoints => Ok(Verdict::PASS),
    }
}

/// Sends the packet the way of its flow.
#[inline(always)]
fn go(packet: &mut Packet, ip: &Ipv4, course: Course, tuple: &mut Tuple) -> Result<Verdict, DropReason> {
    match course.half.way {
        Way::Pod => deliver(packet, ip, course.half, tuple),
        Way::Node => to_node(packet, ip, course),
        Way::Host | Way::Unknown => Ok(Verdict::PASS),
    }
}

/// To a pod here: past the host's stack, straight into its namespace.
#[inline(always)]
fn deliver(packet: &mut Packet, ip: &Ipv4, half: &Half, tuple: &mut Tuple) -> Result<Verdict, DropReason> {
    if !ip.is_plain() {
        return Ok(Verdict::PASS);
    }
    put_into_pod(packet, ip, half, tuple)
}

/// Takes the step that every router takes, addresses the frame to the pod and hands it over. An answer to a Service's client comes from
/// the Service from here on; before, the host's stack might have had to do with it, which knows the backend alone.
#[inline(always)]
fn put_into_pod(packet: &mut Packet, ip: &Ipv4, half: &Half, tuple: &mut Tuple) -> Result<Verdict, DropReason> {
    if tuple.has(Tuple::FROM_SERVICE) {
        rewrite(packet, tuple, ip, IP)?;
    }
    let Some(frame) = packet.at_mut::<Frame>(0) else { return Err(DropReason::RewriteFailed) };
    Ipv4::step(&mut frame.ip);
    put_mac(&mut frame.eth.dst_addr, &half.mac);
    put_mac(&mut frame.eth.src_addr, &Mac::GATEWAY);
    frame.eth.ether_type = ETHER_IPV4;
    // SAFETY: a plain call.
    Ok(Verdict::redirect(Outcome::Delivered, unsafe { bpf_redirect_peer(half.ifindex, 0) }))
}

/// To a pod of another node, or to that node itself.
#[inline(always)]
fn to_node(packet: &mut Packet, ip: &Ipv4, course: Course) -> Result<Verdict, DropReason> {
    let Some(config) = configured() else { return Err(DropReason::NotConfigured) };
    if !ip.is_plain() || !encap::fits(packet, ip, config.overlay_mtu) {
        return Ok(Verdict::PASS);
    }
    encap::send(packet, ip, course, config)
}

/// The node's data, once the agent has written it.
#[inline(always)]
fn configured() -> Option<&'static Config> {
    config().filter(|c| c.overlay_ifindex != 0)
}

/// The host's stack sends to a pod.
#[inline(always)]
pub fn to_workload(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    let bytes = packet.bytes();
    finish(packet.skb(), Hook::ToWorkload, bytes, try_to_workload(&mut packet))
}

/// Nothing that the host's stack forwards is let through here unjudged: it may come from anywhere.
#[inline(always)]
fn try_to_workload(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let Some(headers) = head::read(packet)? else { return Ok(Verdict::PASS) };
    let ip = headers.ip;
    let arrival = arrival_from_stack(packet);
    if arrival == Arrival::Stack && !is_own(&Addr::from_v4(ip.dst), packet.ifindex()) {
        return Err(DropReason::NoEndpoint);
    }
    follow_from_stack(packet, &headers, arrival)
}

/// Who gave the packet to the host's stack.
#[inline(always)]
fn arrival_from_stack(packet: &Packet) -> Arrival {
    if packet.ingress_ifindex() == 0 { Arrival::Host } else { Arrival::Stack }
}

#[inline(always)]
fn follow_from_stack(packet: &mut Packet, headers: &Headers, arrival: Arrival) -> Result<Verdict, DropReason> {
    let tuple = Tuple::read(packet, headers, IP)?;
    match follow(tuple, arrival, packet.bytes()) {
        Ok(_course) => {
            if tuple.has(Tuple::FROM_SERVICE) {
                rewrite(packet, tuple, &headers.ip, IP)?;
            }
            Ok(Verdict::PASS)
        }
        Err(refusal) => refused(refusal),
    }
}

/// The kernel has taken a VXLAN header off: what `from_uplink` left to it.
#[inline(always)]
pub fn from_overlay(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    let bytes = packet.bytes();
    finish(packet.skb(), Hook::FromOverlay, bytes, try_from_overlay(&mut packet))
}

#[inline(always)]
fn try_from_overlay(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let Some(config) = configured() else { return Err(DropReason::NotConfigured) };
    let sender = read_tunnel(packet.skb(), config.vni);
    if sender == 0 {
        return Err(DropReason::NoTunnelKey);
    }
    let remote = Addr::from_v4(sender.to_be_bytes());
    believe(&remote)?;
    let Some(headers) = head::read(packet)? else { return Ok(Verdict::PASS) };
    let ip = headers.ip;
    match endpoint(&Addr::from_v4(ip.dst)) {
        // For the node itself: not ours to judge.
        Some(local) if local.kind == EndpointKind::Host => return Ok(Verdict::PASS),
        _ => {}
    }
    let tuple = Tuple::read(packet, &headers, IP)?;
    tuple.sender = remote.v4();
    match follow(tuple, Arrival::Overlay, packet.bytes()) {
        Ok(course) => go(packet, &ip, course, tuple),
        Err(refusal) => refused(refusal),
    }
}

/// Overlay packets are believed only when they come from a node of the cluster.
#[inline(always)]
fn believe(sender: &Addr) -> Result<(), DropReason> {
    if is_node(sender) { Ok(()) } else { Err(DropReason::UnknownNode) }
}

/// The host's stack sends to another node's pod: tell the overlay device where that is.
#[inline(always)]
pub fn to_overlay(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    let bytes = packet.bytes();
    finish(packet.skb(), Hook::ToOverlay, bytes, try_to_overlay(&mut packet))
}

#[inline(always)]
fn try_to_overlay(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let Some(config) = configured() else { return Err(DropReason::NotConfigured) };
    // The device has no use for ARP: every neighbour is reached by the route alone.
    let Some(headers) = head::read(packet)? else { return Err(DropReason::NoRemoteNode) };
    let ip = headers.ip;
    let to = match route(&Addr::from_v4(ip.dst)) {
        Some(to) if to.kind == RouteKind::Remote => to,
        _ => return Err(DropReason::NoRemoteNode),
    };
    // What a pod sends this way has been translated by the host's stack, which must see the answer: a pod of this node, or of
    // another one that has sent it here.
    let (src, arrival) = (Addr::from_v4(ip.src), arrival_from_stack(packet));
    match endpoint(&src) {
        Some(local) if local.kind == EndpointKind::Workload => {
            follow_from_stack(packet, &headers, arrival)?;
        }
        None if arrival == Arrival::Stack => match route(&src) {
            Some(from) if from.kind == RouteKind::Local => return Err(DropReason::NoEndpoint),
            Some(_) => {
                follow_from_stack(packet, &headers, arrival)?;
            }
            None => {}
        },
        _ => {}
    }
    let Some(eth) = packet.at_mut::<EthHdr>(0) else { return Err(DropReason::RewriteFailed) };
    put_mac(&mut eth.dst_addr, &to.mac);
    put_mac(&mut eth.src_addr, &config.mac);

    if write_tunnel(packet.skb(), u32::from_be_bytes(to.node.v4()), config.vni) != 0 {
        return Err(DropReason::TunnelKeyFailed);
    }
    Ok(Verdict { outcome: Outcome::Encapsulated, ..Verdict::PASS })
}

/// Another machine sends.
#[inline(always)]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    let bytes = packet.bytes();
    finish(packet.skb(), Hook::FromUplink, bytes, try_from_uplink(&mut packet))
}

#[inline(always)]
fn try_from_uplink(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let Some(config) = configured() else { return Ok(Verdict::PASS) };
    let Some(outer) = read_overlay(packet, config) else { return Ok(Verdict::PASS) };
    if !config.features.has(Features::OWN_DECAP) || !outer.is_plain {
        return Ok(Verdict::PASS);
    }
    let headers = head::read_inner(packet, OVERHEAD as usize)?;
    let ip = headers.ip;
    // What is for the node itself, is no plain packet or has nobody here goes the long way: the overlay device takes
    // the header off, `from_overlay` judges sender and packet, the host's stack answers.
    if !ip.is_plain() || packet.is_strung(ip.proto) {
        return Ok(Verdict::PASS);
    }
    let tuple = Tuple::read(packet, &headers, IP + OVERHEAD as usize)?;
    tuple.sender = outer.sender;
    let half = match follow(tuple, Arrival::OverlayForPods, packet.bytes() - OVERHEAD) {
        Ok(course) => course.half,
        Err(refusal) => return refused(refusal),
    };
    if half.way != Way::Pod {
        return Ok(Verdict::PASS);
    }
    packet.shrink(OVERHEAD)?;
    put_into_pod(packet, &ip, half, tuple)
}

/// What counts of an overlay packet's outer header.
struct Overlay {
    /// The outer source, network byte order.
    sender: [u8; 4],
    /// Whether we can take it off: a plain IPv4 packet inside, sent to our overlay MAC, no congestion mark that would
    /// have to be carried inwards (RFC 6040, section 4.2).
    is_plain: bool,
}

/// The outer header, if this is an overlay packet to this node. Everything else on the uplink is none of ours.
#[inline(always)]
fn read_overlay(packet: &mut Packet, config: &Config) -> Option<Overlay> {
    if packet.has_vlan() || !packet.pull(size_of::<Outer>()) {
        return None;
    }
    let outer = packet.at::<Outer>(0)?;
    let (eth, ip, udp, vxlan, inner) = (outer.eth, outer.ip, outer.udp, outer.vxlan, outer.inner_eth);
    // No options, no fragment: those the kernel puts together first.
    if eth.ether_type != ETHER_IPV4
        || ip.vihl != 0x45
        || ip.proto != UDP
        || u16::from_be_bytes(ip.frags) & 0x3fff != 0
        || udp.dst != config.port_be
        || ip.dst_addr != config.node.v4()
    {
        return None;
    }
    if !vxlan.is_of(config.vni) {
        return None;
    }
    let is_plain = inner.ether_type == ETHER_IPV4 && same_mac(inner.dst_addr, config.mac) && ip.tos & ECN_CE != ECN_CE;
    Some(Overlay { sender: ip.src_addr, is_plain })
}

/// Whether the frame is for this MAC. In words: the compiler would call a loop over bytes.
#[inline(always)]
fn same_mac([a, b, c, d, e, f]: [u8; 6], mac: Mac) -> bool {
    let [u, v, w, x, y, z] = mac.bytes;
    u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes([u, v, w, x])
        && u16::from_ne_bytes([e, f]) == u16::from_ne_bytes([y, z])
}

/// Whether room can be made with the newest flags: `TC_ACT_SHOT` if not.
#[inline(always)]
pub fn probe_encap(ctx: TcContext) -> i32 {
    let mut packet = Packet::new(ctx);
    match packet.grow(OVERHEAD, true) {
        Ok(()) => Verdict::PASS.action,
        Err(_refused) => TC_ACT_SHOT,
    }
}
