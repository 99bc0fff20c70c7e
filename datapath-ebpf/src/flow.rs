//! The flow table: one look-up for an established flow. The first packet of a flow, and of each generation of it, goes on in
//! [`crate::open`].
//!
//! In: a packet's [`Tuple`] and where it came in. Out: its [`Course`], or the reason to drop it.
//! Never: a change to the packet.
//!
//! Entries are written as a whole, from a scratch area of this CPU, and never changed in place except for counters,
//! times and TCP flags: another CPU may replace an entry, and its memory be another flow's by then.

use margay_maps::{
    Addr, DropReason, Flow, FlowVerdict, Half, Way,
    protocol::tcp::{FIN, RST},
};

use crate::{
    arrival::Arrival,
    lookup::{FLOWS, SCRATCH, clock, config, enforcement, is_node},
    open::{FINE, NOT_FOR_PODS, open_flow, reason},
    service::{self, NOT_A_SERVICE, REJECTED, TRANSLATED, translate},
    tuple::Tuple,
    words::same,
};

/// Why there is no course.
pub enum Refusal {
    /// Drop it.
    Drop(DropReason),
    /// It is not for a pod here.
    NotForPods,
    /// It is for a Service without endpoints: the sender is to be told.
    NoEndpoints,
}

/// How a packet that may pass goes on.
#[derive(Clone, Copy)]
pub struct Course {
    /// Its flow.
    pub flow: &'static Flow,
    /// The half of it that the packet belongs to.
    pub half: &'static Half,
}

// === impl Course ===

impl Course {
    #[inline(always)]
    fn new(flow: &'static Flow, half: u32) -> Self {
        Self { flow, half: flow.half(half) }
    }
}

/// What the table knows of a packet's flow.
enum Found {
    /// The packet passes.
    Course(Course),
    /// It does not.
    Denied(FlowVerdict),
    /// It is for a Service, and this backend stands for it.
    Backend(&'static Flow),
    /// Nothing that holds for this packet.
    Nothing,
}

/// How the packet goes on, if it may pass. `bytes`: its length.
#[inline(always)]
pub fn follow(tuple: &mut Tuple, arrival: Arrival, bytes: u32) -> Result<Course, Refusal> {
    let mut found = look_up(tuple, arrival, bytes);
    if let Arrival::Workload(ifindex) = arrival
        && lead_to_backend(tuple, &found, ifindex)?
    {
        found = look_up(tuple, arrival, bytes);
    }
    match found {
        Found::Course(course) => Ok(course),
        Found::Denied(verdict) => Err(Refusal::Drop(denial(verdict))),
        Found::Backend(_) | Found::Nothing => follow_new(tuple, arrival, bytes),
    }
}

/// Whether the packet is for a Service: then its tuple is that of the flow to a backend when this returns.
#[inline(always)]
fn lead_to_backend(tuple: &mut Tuple, found: &Found, ifindex: u32) -> Result<bool, Refusal> {
    match found {
        Found::Course(_) | Found::Denied(_) => return Ok(false),
        Found::Backend(flow) if !tuple.has(Tuple::OPENS) && is_choice_current(flow) => {
            tuple.lead_to(flow.nat_v4, flow.nat_port_be);
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
        if flow.opener.half() != tuple.half {
            return Found::Nothing;
        }
        count(flow.half_mut(tuple.half), bytes, tuple.tcp_flags as u8);
        return Found::Backend(flow);
    }
    if !is_current(flow) {
        return Found::Nothing;
    }
    let is_opener = flow.opener.half() == tuple.half;
    if verdict != FlowVerdict::Allowed {
        if is_opener && arrival != Arrival::Host && verdict != FlowVerdict::Unknown {
            let half = flow.half_mut(tuple.half);
            // Whoever is no node has no part in what is remembered; that the last one was a node is.
            if arrival.is_overlay() && !same(half.node_v4, tuple.sender) && !is_node(&Addr::from_v4(tuple.sender)) {
                return Found::Nothing;
            }
            count(half, bytes, tuple.tcp_flags as u8);
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
    let (nat, nat_port_be) = (flow.nat_v4, flow.nat_port_be);
    let half = flow.half_mut(tuple.half);
    let is_on_its_way = half.way != Way::Unknown
        && half.ifindex_in == arrival.ifindex_in()
        && (!arrival.is_overlay() || same(half.node_v4, tuple.sender));
    if !is_on_its_way && !arrival.is_from_stack() {
        return Found::Nothing;
    }
    if !is_opener && !same(nat, [0; 4]) {
        tuple.come_from(nat, nat_port_be);
    }
    count(half, bytes, tuple.tcp_flags as u8);
    Found::Course(Course::new(flow, tuple.half))
}

/// The slow path: the first packet of a flow, or of a generation of it.
#[inline(always)]
fn follow_new(tuple: &mut Tuple, arrival: Arrival, bytes: u32) -> Result<Course, Refusal> {
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
    if flow.opener.half() != tuple.half && !same(flow.nat_v4, [0; 4]) {
        tuple.come_from(flow.nat_v4, flow.nat_port_be);
    }
    Ok(Course::new(flow, tuple.half))
}

/// Whether nothing has changed since the entry was written.
#[inline(always)]
pub fn is_current(flow: &Flow) -> bool {
    config().is_some_and(|config| config.generation == flow.generation)
        && enforcement(flow.slots[0] as u32).is_some_and(|now| now.generation == flow.slot_generations[0])
        && enforcement(flow.slots[1] as u32).is_some_and(|now| now.generation == flow.slot_generations[1])
}

/// Whether nothing has changed about Services since the backend was chosen.
#[inline(always)]
fn is_choice_current(flow: &Flow) -> bool {
    config().is_some_and(|config| config.service_generation == flow.generation)
}

/// Whether the opener sends to the address by which it knows the other end.
#[inline(always)]
fn is_known_as(flow: &Flow, tuple: &Tuple) -> bool {
    same(flow.nat_v4, tuple.nat) && u16::from_ne_bytes(flow.nat_port_be) == u16::from_ne_bytes(tuple.nat_port_be)
}

/// Whether one end has closed the connection: a SYN is a new one.
#[inline(always)]
pub fn is_closed(flow: &Flow) -> bool {
    (flow.halves[0].tcp_flags | flow.halves[1].tcp_flags) & (FIN | RST) != 0
}

/// Whether a policy has denied it.
#[inline(always)]
pub fn is_denial(verdict: FlowVerdict) -> bool {
    matches!(verdict, FlowVerdict::EgressDenied | FlowVerdict::IngressDenied)
}

/// Why the packets of a flow with this verdict are dropped.
#[inline(always)]
pub fn denial(verdict: FlowVerdict) -> DropReason {
    if verdict == FlowVerdict::EgressDenied { DropReason::EgressDenied } else { DropReason::IngressDenied }
}

/// One packet more. Two CPUs may count at once: then one packet goes uncounted, no more.
#[inline(always)]
pub fn count(half: &mut Half, bytes: u32, tcp_flags: u8) {
    half.packets = half.packets.wrapping_add(1);
    half.bytes = half.bytes.wrapping_add(bytes as u64);
    half.last_seen = clock();
    if half.tcp_flags & tcp_flags != tcp_flags {
        half.tcp_flags |= tcp_flags;
    }
}
