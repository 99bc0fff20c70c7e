//! Where packets of a flow go, and where its answers are expected.
//!
//! In: a packet's tuple, where it came in, and the flow that is being opened. Out: the ways of its halves, or the reason to drop it.
//! Never: a verdict.

use margay_maps::{Addr, Config, DropReason, Endpoint, EndpointKind, Flow, Half, Route, RouteKind, Way, protocol::UDP};

use crate::{
    arrival::Arrival,
    flow::Refusal,
    ipv4::is_forwardable,
    lookup::{config, is_node, route},
    packet::put_mac,
    tuple::{Party, Tuple},
    words::same,
};

/// The node to which answers to a pod go back, if it is not the pod's own: the one that has sent the question, whose stack
/// has translated it on its way (a node port's packet that kube-proxy leads on under the pod's own address) and must see the answer.
#[inline(always)]
pub fn way_back(new: &Flow, tuple: &Tuple, to: &Party, arrival: Arrival) -> Option<&'static Route> {
    let question = new.half(tuple.half ^ 1);
    let is_answer = matches!(arrival, Arrival::Workload(_)) && new.opener.half() != tuple.half;
    if !is_answer || question.ifindex_in != Half::OVERLAY || !is_node(&Addr::from_v4(question.node_v4)) {
        return None;
    }
    let is_pods = match to.local() {
        Some(local) => local.kind == EndpointKind::Workload,
        None => {
            let owner = route(&to.addr)?;
            // Of another node than the sender. What nodes themselves send has no detour, and pods that are gone no answer.
            owner.kind == RouteKind::Remote
                && !same(owner.node.v4(), question.node_v4)
                && !same(owner.node.v4(), to.addr.v4())
        }
    };
    route(&Addr::from_v4(question.node_v4)).filter(|sender| is_pods && sender.kind == RouteKind::Remote)
}

/// Where the packet, and with it its half of the flow, goes.
#[inline(always)]
pub fn find_way(new: &mut Flow, tuple: &Tuple, dst: &Party, arrival: Arrival, via_stack: bool) -> Result<(), Refusal> {
    let half = new.half_mut(tuple.half);
    half.way = Way::Host;
    let drop = |reason| Err(Refusal::Drop(reason));
    if let Some(local) = dst.local() {
        if local.kind == EndpointKind::Host {
            return to_host(tuple, arrival);
        }
        if !via_stack && !local.mac.is_zero() {
            lead_to_pod(half, local);
        }
        return Ok(());
    }
    if arrival == Arrival::OverlayForPods {
        return Err(Refusal::NotForPods);
    }
    match route(&dst.addr) {
        Some(Route { kind: RouteKind::Local, .. }) => drop(DropReason::NoEndpoint),
        Some(_) if arrival == Arrival::Overlay => drop(DropReason::NotForThisNode),
        Some(remote) => {
            if same(dst.addr.v4(), remote.node.v4()) {
                to_host(tuple, arrival)?;
            }
            if !via_stack {
                lead_to_node(new, tuple.half, remote);
            }
            Ok(())
        }
        None => to_host(tuple, arrival),
    }
}

/// The way of the answers, where it is plain: they come in where packets of `half` go out, and go to where those came from. So
/// the first answer need not take the slow path; one that comes in elsewhere still does.
#[inline(always)]
pub fn expect_answer(new: &mut Flow, half: u32, src: &Party, arrival: Arrival) {
    let [low, high] = &mut new.halves;
    let (there, answer) = if half == 0 { (low, high) } else { (high, low) };
    let (way, node_v4) = (there.way, there.node_v4);
    let ifindex_in = match there.way {
        Way::Pod => there.ifindex,
        Way::Node => Half::OVERLAY,
        Way::Host | Way::Unknown => return,
    };
    if answer.way != Way::Unknown {
        return;
    }
    match arrival {
        Arrival::Workload(_) => {
            let Some(local) = src.local().filter(|local| !local.mac.is_zero()) else { return };
            if way == Way::Node {
                if !is_node(&Addr::from_v4(node_v4)) {
                    return;
                }
                answer.node_v4 = node_v4;
            }
            lead_to_pod(answer, local);
        }
        Arrival::Overlay | Arrival::OverlayForPods => {
            let Some(remote) = route(&src.addr).filter(|remote| remote.kind == RouteKind::Remote) else { return };
            let node = remote.node.v4();
            // From a pod of that node: for the node's own address there is a question more; see `find_way`.
            if !same(node, node_v4) || same(node, src.addr.v4()) || !is_forwardable(&src.addr) {
                return;
            }
            lead_to_node(new, half ^ 1, remote);
        }
        Arrival::Stack | Arrival::Host => return,
    }
    new.half_mut(half ^ 1).ifindex_in = ifindex_in;
}

/// To a pod here.
#[inline(always)]
fn lead_to_pod(half: &mut Half, local: &Endpoint) {
    half.way = Way::Pod;
    half.ifindex = local.ifindex;
    put_mac(&mut half.mac.bytes, &local.mac);
}

/// To a pod of another node. One end of a flow that the programs lead is a pod here, so the other half goes to no node; a way that is left
/// of an older state must not keep this one's next hop.
#[inline(always)]
pub fn lead_to_node(new: &mut Flow, half: u32, remote: &Route) {
    new.next_hop_v4 = if remote.next_hop.is_v4() { remote.next_hop.v4() } else { [0; 4] };
    let other = new.half_mut(half ^ 1);
    if other.way == Way::Node {
        other.way = Way::Unknown;
    }
    let half = new.half_mut(half);
    half.way = Way::Node;
    half.ifindex = remote.ifindex;
    half.node_v4 = remote.node.v4();
    put_mac(&mut half.mac.bytes, &remote.mac);
}

/// To a node, or to the world through the host's stack.
///
/// A pod that may send VXLAN to nodes could forge any pod's packets once its own source address has been masqueraded.
/// Calico refuses it too (`allowVXLANPacketsFromWorkloads`).
#[inline(always)]
fn to_host(tuple: &Tuple, arrival: Arrival) -> Result<(), Refusal> {
    match arrival {
        Arrival::OverlayForPods => return Err(Refusal::NotForPods),
        Arrival::Workload(_) => {}
        _ => return Ok(()),
    }
    let port_be = tuple.ends_ports().1;
    match config() {
        Some(Config { port_be: overlay, .. })
            if tuple.key.protocol == UDP
                && !tuple.is_error()
                && u16::from_ne_bytes(port_be) == u16::from_ne_bytes(*overlay) =>
        {
            Err(Refusal::Drop(DropReason::OverlayFromWorkload))
        }
        _ => Ok(()),
    }
}
