//! The flow table: one look-up for an established flow, and all the rest for the first packet of each flow and
//! generation.
//!
//! In: a packet's [`Tuple`] and where it came in. Out: its half of the flow, which says how it goes on, or the reason to drop it.
//! Never: a change to the packet.
//!
//! Entries are written as a whole, from a scratch area of this CPU, and never changed in place except for counters,
//! times and TCP flags: another CPU may replace an entry, and its memory be another flow's by then.

use margay_maps::{
    Addr, Config, DropReason, Endpoint, EndpointKind, Flow, FlowVerdict, Half, Route, RouteKind, Way,
    protocol::{
        UDP,
        tcp::{FIN, RST},
    },
};

use crate::{
    events,
    ipv4::is_forwardable,
    judge::{Opening, judge},
    lookup::{FLOWS, SCRATCH, TUPLE, clock, config, endpoint, enforcement, is_nobodys, is_node, is_own, route},
    packet::put_mac,
    service::{self, NOT_A_SERVICE, REJECTED, TRANSLATED, translate},
    tuple::{Tuple, dst_port},
};

/// Where a packet came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// By a pod's interface.
    Workload(u32),
    /// From another node, over the overlay.
    Overlay,
    /// As `Overlay`, but whatever is not for a pod here is left to others.
    OverlayForPods,
    /// From the host's stack, which forwards it for somebody else.
    Stack,
    /// From the host itself.
    Host,
}

/// [`Flow::via_stack`]: see there.
const VIA_STACK: u32 = 1;
/// Opened by the host itself.
const BY_HOST: u32 = 2;

/// Why there is no half.
pub enum Refusal {
    /// Drop it.
    Drop(DropReason),
    /// It is not for a pod here.
    NotForPods,
    /// It is for a Service without endpoints: the sender is to be told.
    NoEndpoints,
}

/// What the table knows of a packet's flow.
enum Found {
    /// The packet passes.
    Half(&'static Half),
    /// It does not.
    Denied(FlowVerdict),
    /// It is for a Service, and this backend stands for it.
    Backend(&'static Flow),
    /// Nothing that holds for this packet.
    Nothing,
}

/// What the slow path's functions answer: nothing stands against the packet. After [`open_flow`] its flow is in the scratch area, and
/// in the table if there is room and it leaves a trace at all.
const FINE: u32 = 0;
/// See [`Refusal::NotForPods`].
const NOT_FOR_PODS: u32 = 1;
/// From here on a [`DropReason`].
const DROP: u32 = 2;

// === impl Arrival ===

impl Arrival {
    /// As a number that no interface has.
    const OVERLAY_FOR_PODS: u32 = u32::MAX - 1;
    const STACK: u32 = u32::MAX - 2;
    const HOST: u32 = u32::MAX - 3;

    /// In one number, for the slow path.
    #[inline(always)]
    fn code(self) -> u32 {
        match self {
            Self::Workload(ifindex) => ifindex,
            Self::Overlay => Half::OVERLAY,
            Self::OverlayForPods => Self::OVERLAY_FOR_PODS,
            Self::Stack => Self::STACK,
            Self::Host => Self::HOST,
        }
    }

    #[inline(always)]
    fn from_code(code: u32) -> Self {
        match code {
            Half::OVERLAY => Self::Overlay,
            Self::OVERLAY_FOR_PODS => Self::OverlayForPods,
            Self::STACK => Self::Stack,
            Self::HOST => Self::Host,
            ifindex => Self::Workload(ifindex),
        }
    }

    #[inline(always)]
    fn ifindex_in(self) -> u32 {
        match self {
            Self::Workload(ifindex) => ifindex,
            Self::Overlay | Self::OverlayForPods => Half::OVERLAY,
            Self::Stack | Self::Host => 0,
        }
    }

    #[inline(always)]
    fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayForPods)
    }

    #[inline(always)]
    fn is_from_stack(self) -> bool {
        matches!(self, Self::Stack | Self::Host)
    }
}

/// The half of the packet's flow, if it may pass. `bytes`: its length.
#[inline(always)]
pub fn follow(tuple: &mut Tuple, arrival: Arrival, bytes: u32) -> Result<&'static Half, Refusal> {
    let mut found = look_up(tuple, arrival, bytes);
    if let Arrival::Workload(ifindex) = arrival
        && lead_to_backend(tuple, &found, ifindex)?
    {
        found = look_up(tuple, arrival, bytes);
    }
    match found {
        Found::Half(half) => Ok(half),
        Found::Denied(verdict) => Err(Refusal::Drop(denial(verdict))),
        Found::Backend(_) | Found::Nothing => follow_new(tuple, arrival, bytes),
    }
}

/// Whether the packet is for a Service: then its tuple is that of the flow to a backend when this returns.
#[inline(always)]
fn lead_to_backend(tuple: &mut Tuple, found: &Found, ifindex: u32) -> Result<bool, Refusal> {
    match found {
        Found::Half(_) | Found::Denied(_) => return Ok(false),
        Found::Backend(flow) if !tuple.has(Tuple::OPENS) && is_choice_current(flow) => {
            tuple.lead_to(flow.nat.v4(), flow.nat_port_be);
            return Ok(true);
        }
        Found::Backend(_) | Found::Nothing => {}
    }
    let known = matches!(found, Found::Backend(_));
    match translate(ifindex, known as u32) {
        TRANSLATED => Ok(true),
        NOT_A_SERVICE => Ok(false),
        REJECTED => Err(Refusal::NoEndpoints),
        refused => Err(Refusal::Drop(service::reason(refused))),
    }
}

/// The packet's entry, as far as it holds. What passes, and what is refused, is counted in it.
#[inline(always)]
fn look_up(tuple: &mut Tuple, arrival: Arrival, bytes: u32) -> Found {
    if tuple.has(Tuple::STATELESS) {
        return Found::Nothing;
    }
    let Some(flow) = FLOWS.get_ptr_mut(&tuple.key) else {
        tuple.flags |= Tuple::ABSENT;
        return Found::Nothing;
    };
    // SAFETY: the pointer is an element of the map, valid for the whole run of the program. Others may write to
    // it; each field is read once, and the module's comment says what may change.
    let flow: &'static mut Flow = unsafe { &mut *flow };
    let verdict = flow.verdict;
    if verdict == FlowVerdict::Translated {
        if flow.opener != tuple.half {
            return Found::Nothing;
        }
        count(half_mut(flow, tuple.half), bytes, tuple.tcp_flags as u8);
        return Found::Backend(flow);
    }
    if !is_current(flow) {
        return Found::Nothing;
    }
    let is_opener = flow.opener == tuple.half;
    if verdict != FlowVerdict::Allowed {
        if is_opener && arrival != Arrival::Host && verdict != FlowVerdict::Unknown {
            count(half_mut(flow, tuple.half), bytes, tuple.tcp_flags as u8);
            return Found::Denied(verdict);
        }
        return Found::Nothing;
    }
    if tuple.has(Tuple::OPENS) && (!is_opener || is_closed(flow)) {
        return Found::Nothing;
    }
    // It may know the other end by a Service's address, or have known it so before.
    if is_opener && matches!(arrival, Arrival::Workload(_)) && !is_known_as(flow, tuple) {
        return Found::Nothing;
    }
    let (nat, nat_port_be) = (flow.nat.v4(), flow.nat_port_be);
    let half = half_mut(flow, tuple.half);
    let is_on_its_way = half.way != Way::Unknown
        && half.ifindex_in == arrival.ifindex_in()
        && (!arrival.is_overlay() || same(half.node.v4(), tuple.sender));
    if !is_on_its_way && !arrival.is_from_stack() {
        return Found::Nothing;
    }
    if !is_opener && !same(nat, [0; 4]) {
        tuple.come_from(nat, nat_port_be);
    }
    count(half, bytes, tuple.tcp_flags as u8);
    Found::Half(half)
}

/// The slow path: the first packet of a flow, or of a generation of it.
#[inline(always)]
fn follow_new(tuple: &mut Tuple, arrival: Arrival, bytes: u32) -> Result<&'static Half, Refusal> {
    // What comes over the overlay is believed from nodes of the cluster alone. That the sender is one is remembered with the way.
    if arrival.is_overlay() && !is_node(&Addr::from_v4(tuple.sender)) {
        return Err(Refusal::Drop(DropReason::UnknownNode));
    }
    match open_flow(arrival.code(), bytes) {
        FINE => {}
        NOT_FOR_PODS => return Err(Refusal::NotForPods),
        refused => return Err(Refusal::Drop(reason(refused))),
    }
    let Some(flow) = SCRATCH.get_ptr(0) else { return Err(Refusal::Drop(DropReason::NotConfigured)) };
    // SAFETY: this CPU's own element; programs of one CPU do not run within each other at these hooks.
    let flow: &'static Flow = unsafe { &*flow };
    if flow.opener != tuple.half && !same(flow.nat.v4(), [0; 4]) {
        tuple.come_from(flow.nat.v4(), flow.nat_port_be);
    }
    Ok(if tuple.half == 0 { &flow.halves[0] } else { &flow.halves[1] })
}

/// The reason in an answer of the slow path, which gives none but these.
#[inline(always)]
fn reason(answer: u32) -> DropReason {
    const SPOOFED: u32 = DROP + DropReason::SpoofedSource as u32;
    const UNICAST: u32 = DROP + DropReason::NotUnicast as u32;
    const ENDPOINT: u32 = DROP + DropReason::NoEndpoint as u32;
    const OVERLAY: u32 = DROP + DropReason::OverlayFromWorkload as u32;
    const NODE: u32 = DROP + DropReason::NotForThisNode as u32;
    const EGRESS: u32 = DROP + DropReason::EgressDenied as u32;
    const INGRESS: u32 = DROP + DropReason::IngressDenied as u32;
    const FULL: u32 = DROP + DropReason::FlowTableFull as u32;
    match answer {
        SPOOFED => DropReason::SpoofedSource,
        UNICAST => DropReason::NotUnicast,
        ENDPOINT => DropReason::NoEndpoint,
        OVERLAY => DropReason::OverlayFromWorkload,
        NODE => DropReason::NotForThisNode,
        EGRESS => DropReason::EgressDenied,
        INGRESS => DropReason::IngressDenied,
        FULL => DropReason::FlowTableFull,
        _ => DropReason::NotConfigured,
    }
}

/// The first packet of a flow, or of a generation, or from elsewhere than before: the one in [`TUPLE`], of so many bytes.
///
/// A function of its own for the verifier (`extern "C"`, with numbers for arguments): it is verified once, and not once for every
/// state that a program can reach it in.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn open_flow(arrival: u32, bytes: u32) -> u32 {
    match try_open(Arrival::from_code(arrival), bytes) {
        Ok(()) => FINE,
        Err(refusal) => code(refusal),
    }
}

/// A refusal in one number, for the caller of a function that is verified by itself.
#[inline(always)]
fn code(refusal: Refusal) -> u32 {
    match refusal {
        // `NoEndpoints` is said before the slow path begins.
        Refusal::NotForPods | Refusal::NoEndpoints => NOT_FOR_PODS,
        Refusal::Drop(reason) => DROP + reason as u32,
    }
}

#[inline(always)]
fn try_open(arrival: Arrival, bytes: u32) -> Result<(), Refusal> {
    let (Some(tuple), Some(scratch)) = (TUPLE.get_ptr(0), SCRATCH.get_ptr_mut(0)) else {
        return Err(Refusal::Drop(DropReason::NotConfigured));
    };
    // SAFETY: this CPU's own elements; programs of one CPU do not run within each other at these hooks.
    let (tuple, new) = unsafe { (&*tuple, &mut *scratch) };
    clear(new);
    // SAFETY: as in `look_up`.
    let known = || FLOWS.get_ptr(&tuple.key).map(|flow| unsafe { &*flow });
    let known = if tuple.has(Tuple::ABSENT) { None } else { known() };
    let allowed = known.filter(|flow| flow.verdict == FlowVerdict::Allowed);

    match check_ends(arrival.code()) {
        FINE => {}
        refused => return Err(Refusal::Drop(reason(refused))),
    }
    new.generation = config().map_or(0, |config| config.generation);
    new.opened = clock();
    new.opener = tuple.half;
    new.via_stack = match arrival {
        Arrival::Stack => VIA_STACK,
        Arrival::Host => BY_HOST,
        _ => 0,
    };
    let mut judged = false;
    let mut via_stack = false;
    let mut others = false;
    let mut is_new = true;
    if let Some(flow) = allowed {
        others = flow.opener != tuple.half;
        via_stack = flow.via_stack == VIA_STACK;
        if !tuple.has(Tuple::OPENS) || (!others && !is_closed(flow)) {
            judged = keep(new, flow);
            is_new = false;
        }
        if arrival.is_from_stack() && !others {
            know_as(new, flow);
        }
    }
    if matches!(arrival, Arrival::Workload(_)) && new.opener == tuple.half {
        let service = if same(tuple.nat, [0; 4]) { Addr::UNSPECIFIED } else { Addr::from_v4(tuple.nat) };
        copy_addr(&mut new.nat, &service);
        new.nat_port_be = tuple.nat_port_be;
    }
    come_in(new, tuple, arrival);
    if !arrival.is_from_stack() {
        match find_flow_way(arrival.code(), via_stack as u32) {
            FINE => {}
            NOT_FOR_PODS => return Err(Refusal::NotForPods),
            refused => return Err(Refusal::Drop(reason(refused))),
        }
    }
    if tuple.is_error() && allowed.is_some() {
        return Ok(());
    }
    if !judged {
        judge_flow();
    }
    if new.verdict == FlowVerdict::Allowed {
        count(half_mut(new, tuple.half), bytes, tuple.tcp_flags as u8);
    }
    store(tuple, new, others)?;
    if is_new && !tuple.has(Tuple::STATELESS) {
        events::opened();
    }
    Ok(())
}

/// Whether the packet in [`TUPLE`] may come from where it says, and go where it wants to, as far as that is plain without more ado.
/// [`FINE`], or a refusal. A function of its own, as [`open_flow`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn check_ends(arrival: u32) -> u32 {
    let Some(tuple) = TUPLE.get_ptr(0) else { return DROP + DropReason::NotConfigured as u32 };
    // SAFETY: as in `try_open`.
    let tuple = unsafe { &*tuple };
    let (src, dst) = ends(tuple, tuple.half);
    match Arrival::from_code(arrival) {
        // A pod that reaches itself through a Service goes by another name, and is the receiver too.
        Arrival::Workload(ifindex) if !is_own(if tuple.has(Tuple::HAIRPIN) { dst } else { src }, ifindex) => {
            DROP + DropReason::SpoofedSource as u32
        }
        Arrival::Workload(_) if !is_forwardable(dst) => DROP + DropReason::NotUnicast as u32,
        // A pod whose programs are still to be attached sends by the host's stack; no policies of its own are known here.
        Arrival::Stack if is_nobodys(src) => DROP + DropReason::NoEndpoint as u32,
        _ => FINE,
    }
}

/// Finds the way of the packet in [`TUPLE`], for its half of the flow in [`SCRATCH`]. A function of its own, as [`open_flow`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_flow_way(arrival: u32, via_stack: u32) -> u32 {
    let (Some(tuple), Some(new)) = (TUPLE.get_ptr(0), SCRATCH.get_ptr_mut(0)) else {
        return DROP + DropReason::NotConfigured as u32;
    };
    // SAFETY: as in `try_open`, whose references are not used meanwhile.
    let (tuple, new) = unsafe { (&*tuple, &mut *new) };
    let (src, dst) = ends(tuple, tuple.half);
    let arrival = Arrival::from_code(arrival);
    if let Some(sender) = way_back(new, tuple, dst, arrival) {
        lead_to_node(half_mut(new, tuple.half), sender);
        return FINE;
    }
    let via_stack = via_stack != 0;
    // The host's stack led the opener's packets on to a third node, and is to see what comes back; it never sends theirs in a circle.
    let to_stack = via_stack && new.opener != tuple.half;
    // What answers a pod that has reached itself goes back to itself.
    let (from, to) = (if is_hairpin(new, src) { dst } else { src }, if is_hairpin(new, dst) { src } else { dst });
    match find_way(half_mut(new, tuple.half), tuple, to, arrival, via_stack) {
        Err(Refusal::Drop(DropReason::NotForThisNode)) if to_stack => FINE,
        Ok(()) => {
            if !via_stack && !tuple.has(Tuple::STATELESS) {
                expect_answer(new, tuple.half, from, arrival);
            }
            FINE
        }
        Err(refusal) => code(refusal),
    }
}

/// Judges the flow in [`SCRATCH`], in the direction in which it was opened. A function of its own, as [`open_flow`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_flow() -> u32 {
    let (Some(tuple), Some(new)) = (TUPLE.get_ptr(0), SCRATCH.get_ptr_mut(0)) else { return 0 };
    // SAFETY: as in `find_flow_way`.
    let (tuple, new) = unsafe { (&*tuple, &mut *new) };
    let (from, to) = ends(tuple, new.opener);
    let from = if is_hairpin(new, from) { to } else { from };
    let port_be = dst_port(&tuple.key, new.opener);
    let (by_host, opener) = (new.via_stack == BY_HOST, new.opener);
    judge(new, &Opening { from, to, protocol: tuple.key.protocol, port_be, by_host }, opener);
    1
}

/// Notes where the packet has come in. Where its opener's packets come in elsewhere than before, answers go elsewhere, too.
#[inline(always)]
fn come_in(new: &mut Flow, tuple: &Tuple, arrival: Arrival) {
    let sender = if arrival.is_overlay() { tuple.sender } else { [0; 4] };
    let half = half_mut(new, tuple.half);
    let moved = half.ifindex_in != arrival.ifindex_in() || !same(half.node.v4(), sender);
    half.ifindex_in = arrival.ifindex_in();
    half.node = if arrival.is_overlay() { Addr::from_v4(sender) } else { Addr::UNSPECIFIED };
    if moved && new.opener == tuple.half {
        half_mut(new, tuple.half ^ 1).way = Way::Unknown;
    }
}

/// The Service's address by which the opener knows the other end.
#[inline(always)]
fn know_as(new: &mut Flow, known: &Flow) {
    copy_addr(&mut new.nat, &known.nat);
    new.nat_port_be = known.nat_port_be;
}

/// Takes over what is known of the flow. Whether the verdict too: it holds under the same generations alone.
#[inline(always)]
fn keep(new: &mut Flow, known: &Flow) -> bool {
    let same_ways = known.generation == new.generation;
    copy(&mut new.halves, &known.halves);
    if !same_ways {
        new.halves[0].way = Way::Unknown;
        new.halves[1].way = Way::Unknown;
    }
    new.opener = known.opener;
    new.opened = known.opened;
    new.via_stack = known.via_stack;
    know_as(new, known);
    if !is_current(known) {
        return false;
    }
    new.verdict = known.verdict;
    new.slots = known.slots;
    new.slot_generations = known.slot_generations;
    new.origins = known.origins;
    true
}

/// Writes the flow down, unless it is one that leaves no trace. `others`: there is an allowed flow that the other end
/// opened, which a denial of this one must not end.
#[inline(always)]
fn store(tuple: &Tuple, new: &Flow, others: bool) -> Result<(), Refusal> {
    let allowed = new.verdict == FlowVerdict::Allowed;
    // A full table refuses: then this packet passes on its verdict alone, and nothing is remembered.
    let stored = !tuple.has(Tuple::STATELESS) && (allowed || !others) && FLOWS.insert(&tuple.key, new, 0).is_ok();
    if allowed && !stored && !tuple.is_error() && !same(new.nat.v4(), [0; 4]) {
        return Err(Refusal::Drop(DropReason::FlowTableFull));
    }
    if allowed { Ok(()) } else { Err(Refusal::Drop(denial(new.verdict))) }
}

/// The node to which answers to a pod go back, if it is not the pod's own: the one that has sent the question, whose stack
/// has translated it on its way (a node port's packet that kube-proxy leads on under the pod's own address) and must see the answer.
#[inline(always)]
fn way_back(new: &Flow, tuple: &Tuple, to: &Addr, arrival: Arrival) -> Option<&'static Route> {
    let question = if tuple.half == 0 { &new.halves[1] } else { &new.halves[0] };
    let is_answer = matches!(arrival, Arrival::Workload(_)) && new.opener != tuple.half;
    if !is_answer || question.ifindex_in != Half::OVERLAY || !is_node(&question.node) {
        return None;
    }
    let is_pods = match endpoint(to) {
        Some(local) => local.kind == EndpointKind::Workload,
        None => {
            let owner = route(to)?;
            // Of another node than the sender. What nodes themselves send has no detour, and pods that are gone no answer.
            owner.kind == RouteKind::Remote
                && !same(owner.node.v4(), question.node.v4())
                && !same(owner.node.v4(), to.v4())
        }
    };
    route(&question.node).filter(|sender| is_pods && sender.kind == RouteKind::Remote)
}

/// Where packets of this half go.
#[inline(always)]
fn find_way(half: &mut Half, tuple: &Tuple, dst: &Addr, arrival: Arrival, via_stack: bool) -> Result<(), Refusal> {
    half.way = Way::Host;
    let drop = |reason| Err(Refusal::Drop(reason));
    if let Some(local) = endpoint(dst) {
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
    match route(dst) {
        Some(Route { kind: RouteKind::Local, .. }) => drop(DropReason::NoEndpoint),
        Some(_) if arrival == Arrival::Overlay => drop(DropReason::NotForThisNode),
        Some(remote) => {
            if u32::from_ne_bytes(dst.v4()) == u32::from_ne_bytes(remote.node.v4()) {
                to_host(tuple, arrival)?;
            }
            if !via_stack {
                lead_to_node(half, remote);
            }
            Ok(())
        }
        None => to_host(tuple, arrival),
    }
}

/// The way of the answers, where it is plain: they come in where packets of `half` go out, and go to where those came from. So
/// the first answer need not take the slow path; one that comes in elsewhere still does.
#[inline(always)]
fn expect_answer(new: &mut Flow, half: u32, src: &Addr, arrival: Arrival) {
    let [low, high] = &mut new.halves;
    let (there, answer) = if half == 0 { (low, high) } else { (high, low) };
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
            let Some(local) = endpoint(src).filter(|local| !local.mac.is_zero()) else { return };
            if there.way == Way::Node {
                if !is_node(&there.node) {
                    return;
                }
                copy_addr(&mut answer.node, &there.node);
            }
            lead_to_pod(answer, local);
        }
        Arrival::Overlay | Arrival::OverlayForPods => {
            let Some(remote) = route(src).filter(|remote| remote.kind == RouteKind::Remote) else { return };
            // From a pod of that node: for the node's own address there is a question more; see `find_way`.
            if !same(remote.node.v4(), there.node.v4()) || same(remote.node.v4(), src.v4()) || !is_forwardable(src) {
                return;
            }
            lead_to_node(answer, remote);
        }
        Arrival::Stack | Arrival::Host => return,
    }
    answer.ifindex_in = ifindex_in;
}

/// To a pod here.
#[inline(always)]
fn lead_to_pod(half: &mut Half, local: &Endpoint) {
    half.way = Way::Pod;
    half.ifindex = local.ifindex;
    put_mac(&mut half.mac.bytes, &local.mac);
}

/// To a pod of another node.
#[inline(always)]
fn lead_to_node(half: &mut Half, remote: &Route) {
    half.way = Way::Node;
    half.ifindex = remote.ifindex;
    copy_addr(&mut half.node, &remote.node);
    copy_addr(&mut half.next_hop, &remote.next_hop);
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
    let port_be = dst_port(&tuple.key, tuple.half);
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

/// Sender and receiver of a half.
#[inline(always)]
pub(crate) fn ends(tuple: &Tuple, half: u32) -> (&Addr, &Addr) {
    if half == 0 { (&tuple.key.low, &tuple.key.high) } else { (&tuple.key.high, &tuple.key.low) }
}

/// Whether nothing has changed since the entry was written.
#[inline(always)]
fn is_current(flow: &Flow) -> bool {
    config().is_some_and(|config| config.generation == flow.generation)
        && enforcement(flow.slots[0]).is_some_and(|now| now.generation == flow.slot_generations[0])
        && enforcement(flow.slots[1]).is_some_and(|now| now.generation == flow.slot_generations[1])
}

/// Whether nothing has changed about Services since the backend was chosen.
#[inline(always)]
fn is_choice_current(flow: &Flow) -> bool {
    config().is_some_and(|config| config.service_generation == flow.generation)
}

/// Whether the opener sends to the address by which it knows the other end.
#[inline(always)]
fn is_known_as(flow: &Flow, tuple: &Tuple) -> bool {
    same(flow.nat.v4(), tuple.nat) && u16::from_ne_bytes(flow.nat_port_be) == u16::from_ne_bytes(tuple.nat_port_be)
}

/// Whether this end of the flow is a pod that has reached itself through a Service, by the name that it is given then.
#[inline(always)]
fn is_hairpin(flow: &Flow, end: &Addr) -> bool {
    same(end.v4(), Addr::GATEWAY.v4()) && !same(flow.nat.v4(), [0; 4])
}

#[inline(always)]
fn same(a: [u8; 4], b: [u8; 4]) -> bool {
    u32::from_ne_bytes(a) == u32::from_ne_bytes(b)
}

/// Whether one end has closed the connection: a SYN is a new one.
#[inline(always)]
pub fn is_closed(flow: &Flow) -> bool {
    (flow.halves[0].tcp_flags | flow.halves[1].tcp_flags) & (FIN | RST) != 0
}

#[inline(always)]
fn half_mut(flow: &mut Flow, half: u32) -> &mut Half {
    if half == 0 { &mut flow.halves[0] } else { &mut flow.halves[1] }
}

#[inline(always)]
fn denial(verdict: FlowVerdict) -> DropReason {
    if verdict == FlowVerdict::EgressDenied { DropReason::EgressDenied } else { DropReason::IngressDenied }
}

/// One packet more. Two CPUs may count at once: then one packet goes uncounted, no more.
#[inline(always)]
fn count(half: &mut Half, bytes: u32, tcp_flags: u8) {
    half.packets = half.packets.wrapping_add(1);
    half.bytes = half.bytes.wrapping_add(bytes as u64);
    half.last_seen = clock();
    if half.tcp_flags & tcp_flags != tcp_flags {
        half.tcp_flags |= tcp_flags;
    }
}

/// All zero. Word by word: the compiler would call a loop over bytes.
#[inline(always)]
pub fn clear(flow: &mut Flow) {
    const WORDS: usize = size_of::<Flow>() / 8;
    let words: *mut u64 = (flow as *mut Flow).cast();
    for i in 0..WORDS {
        // SAFETY: within the flow, whose alignment and size are multiples of a word's; zero is valid for each field.
        unsafe { words.add(i).write_volatile(0) };
    }
}

/// Both halves, word by word.
#[inline(always)]
fn copy(to: &mut [Half; 2], from: &[Half; 2]) {
    const WORDS: usize = size_of::<[Half; 2]>() / 8;
    let (to, from): (*mut u64, *const u64) = ((to as *mut [Half; 2]).cast(), (from as *const [Half; 2]).cast());
    for i in 0..WORDS {
        // SAFETY: as in `clear`; both are as long.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// Likewise.
#[inline(always)]
fn copy_addr(to: &mut Addr, from: &Addr) {
    let (to, from): (*mut u32, *const u32) = ((to as *mut Addr).cast(), (from as *const Addr).cast());
    for i in 0..size_of::<Addr>() / 4 {
        // SAFETY: within both addresses, whose alignment is a word's of four bytes.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

const _: () =
    assert!(align_of::<Flow>() == 8 && size_of::<Flow>().is_multiple_of(8) && size_of::<Half>().is_multiple_of(8));
