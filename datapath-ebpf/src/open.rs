//! The slow path: the first packet of a flow, or of a generation of it, or one that comes from elsewhere than before.
//!
//! In: the packet in [`TUPLE`], and where it came in. Out: its flow in [`SCRATCH`] and in the table, or a refusal. Never: a change to
//! the packet.
//!
//! Its steps are functions of their own for the verifier (`extern "C"`, with numbers for arguments): each is verified once, and not once
//! for every state that a program can reach it in, and has a stack of its own.

use margay_maps::{
    Addr, DropReason, Flow, FlowVerdict, Opener, Way,
    protocol::{SCTP, TCP},
};

use crate::{
    arrival::Arrival,
    events,
    flow::{Refusal, count, denial, is_closed, is_current, is_denial},
    ipv4::is_forwardable,
    judge::{Opening, judge},
    lookup::{FLOWS, SCRATCH, TUPLE, clock, config, is_of_own_block},
    tuple::{Party, Tuple},
    way::{expect_answer, find_way, lead_to_node, way_back},
    words::{copy, same},
};

/// From here on Linux chooses clients' ports (net/ipv4/af_inet.c, `ip_local_port_range`).
const FIRST_CLIENT_PORT: u16 = 32_768;

/// What the slow path's functions answer: nothing stands against the packet. After [`open_flow`] its flow is in the scratch area, and
/// in the table if there is room and it leaves a trace at all.
pub const FINE: u32 = 0;
/// See [`Refusal::NotForPods`].
pub const NOT_FOR_PODS: u32 = 1;
/// From here on a [`DropReason`].
const DROP: u32 = 2;

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

/// The reason in an answer of the slow path, which gives none but these.
#[inline(always)]
pub fn reason(answer: u32) -> DropReason {
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

#[inline(always)]
fn try_open(arrival: Arrival, bytes: u32) -> Result<(), Refusal> {
    let (Some(tuple), Some(scratch)) = (TUPLE.get_ptr_mut(0), SCRATCH.get_ptr_mut(0)) else {
        return Err(Refusal::Drop(DropReason::NotConfigured));
    };
    // SAFETY: this CPU's own elements; programs of one CPU do not run within each other at these hooks.
    let (tuple, new) = unsafe { (&mut *tuple, &mut *scratch) };
    clear(new);
    // Before anything that it stands for: what is read of an old state must not pass for the new one's.
    new.generation = config().map_or(0, |config| config.generation);
    tuple.look_up_ends();
    let tuple = &*tuple;
    // SAFETY: as in `look_up`.
    let known = || FLOWS.get_ptr(&tuple.key).map(|flow| unsafe { &*flow });
    let known = if tuple.has(Tuple::ABSENT) { None } else { known() };
    let allowed = known.filter(|flow| flow.verdict == FlowVerdict::Allowed);
    let denied = known.filter(|flow| is_denial(flow.verdict));
    let answers = is_answer(tuple, denied);

    match check_ends(arrival.code()) {
        FINE => {}
        refused => return Err(Refusal::Drop(reason(refused))),
    }
    new.opened = clock();
    new.opener = Opener::of_half(tuple.half);
    new.opener.bits |= match arrival {
        Arrival::Stack => Opener::VIA_STACK,
        Arrival::Host => Opener::BY_HOST,
        _ => 0,
    };
    let mut judged = false;
    let mut via_stack = false;
    let mut others = false;
    let mut is_new = true;
    if let Some(flow) = allowed {
        others = flow.opener.half() != tuple.half;
        via_stack = flow.opener.has(Opener::VIA_STACK);
        if !tuple.has(Tuple::OPENS) || (!others && !is_closed(flow)) {
            judged = keep(new, flow);
            is_new = false;
        }
        if arrival.is_from_stack() && !others {
            know_as(new, flow);
        }
    }
    if let Some(flow) = denied
        && !tuple.has(Tuple::OPENS)
        && flow.opener.half() == tuple.half
    {
        take_over(new, flow, false);
    }
    if matches!(arrival, Arrival::Workload(_)) && new.opener.half() == tuple.half {
        new.nat_v4 = tuple.nat;
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
        if is_new && answers {
            // Its sender has not opened this flow: what is revoked would go on as soon as the server speaks.
            others = new.verdict != FlowVerdict::Allowed;
            if !others {
                new.opener.bits = (new.opener.bits ^ Opener::HIGH) & !Opener::BY_HOST;
                judge_flow();
                // What is known of it stays known: how long it is kept hangs on that.
                others = denied.is_some() && new.verdict != FlowVerdict::Allowed;
            }
        }
    }
    if new.verdict == FlowVerdict::Allowed {
        count(new.half_mut(tuple.half), bytes, tuple.tcp_flags as u8);
    }
    store(tuple, new, others)?;
    if is_new && !tuple.has(Tuple::STATELESS) {
        events::opened();
    }
    Ok(())
}

/// Whether a packet of a flow that is not allowed looks like one of a connection that the other end has opened: its denial says so, or
/// where there is none, its sender's port is one that servers have, and the other one that clients are given.
#[inline(always)]
fn is_answer(tuple: &Tuple, denied: Option<&Flow>) -> bool {
    if !matches!(tuple.key.protocol, TCP | SCTP)
        || tuple.has(Tuple::OPENS | Tuple::STATELESS)
        || !same(tuple.nat, [0; 4])
    {
        return false;
    }
    match denied {
        Some(flow) => flow.opener.half() != tuple.half,
        None => {
            let (src, dst) = tuple.ends_ports();
            u16::from_be_bytes(src) < FIRST_CLIENT_PORT && u16::from_be_bytes(dst) >= FIRST_CLIENT_PORT
        }
    }
}

/// Whether the packet in [`TUPLE`] may come from where it says, and go where it wants to, as far as that is plain without more ado.
/// [`FINE`], or a refusal. A function of its own, as [`open_flow`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn check_ends(arrival: u32) -> u32 {
    let Some(tuple) = TUPLE.get_ptr(0) else { return DROP + DropReason::NotConfigured as u32 };
    // SAFETY: as in `try_open`.
    let tuple = unsafe { &*tuple };
    let (src, dst) = (tuple.party(tuple.half), tuple.party(tuple.half ^ 1));
    match Arrival::from_code(arrival) {
        // A pod that reaches itself through a Service goes by another name, and is the receiver too.
        Arrival::Workload(ifindex) if !(if tuple.has(Tuple::HAIRPIN) { dst } else { src }).is_behind(ifindex) => {
            DROP + DropReason::SpoofedSource as u32
        }
        Arrival::Workload(_) if !is_forwardable(&dst.addr) => DROP + DropReason::NotUnicast as u32,
        // A pod that is gone, or whose programs are still to be attached, sends by the host's stack; no policies of its own are known here.
        Arrival::Stack if src.local().is_none() && is_of_own_block(&src.addr) => DROP + DropReason::NoEndpoint as u32,
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
    let (src, dst) = (tuple.party(tuple.half), tuple.party(tuple.half ^ 1));
    let arrival = Arrival::from_code(arrival);
    if let Some(sender) = way_back(new, tuple, dst, arrival) {
        lead_to_node(new, tuple.half, sender);
        return FINE;
    }
    let via_stack = via_stack != 0;
    // The host's stack led the opener's packets on to a third node, and is to see what comes back; it never sends theirs in a circle.
    let to_stack = via_stack && new.opener.half() != tuple.half;
    // What answers a pod that has reached itself goes back to itself.
    let (from, to) = (if is_hairpin(new, src) { dst } else { src }, if is_hairpin(new, dst) { src } else { dst });
    match find_way(new, tuple, to, arrival, via_stack) {
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
    let (by_host, opener) = (new.opener.has(Opener::BY_HOST), new.opener.half());
    let (from, to) = (tuple.party(opener), tuple.party(opener ^ 1));
    let from = if is_hairpin(new, from) { to } else { from };
    let port_be = tuple.ports_of(opener).1;
    judge(new, &Opening { from, to, protocol: tuple.key.protocol, port_be, by_host }, opener);
    1
}

/// Notes where the packet has come in. Where its opener's packets come in elsewhere than before, answers go elsewhere, too.
#[inline(always)]
fn come_in(new: &mut Flow, tuple: &Tuple, arrival: Arrival) {
    let sender = if arrival.is_overlay() { tuple.sender } else { [0; 4] };
    let half = new.half_mut(tuple.half);
    let moved = half.ifindex_in != arrival.ifindex_in() || !same(half.node_v4, sender);
    half.ifindex_in = arrival.ifindex_in();
    half.node_v4 = sender;
    if moved && new.opener.half() == tuple.half {
        new.half_mut(tuple.half ^ 1).way = Way::Unknown;
    }
}

/// The Service's address by which the opener knows the other end.
#[inline(always)]
fn know_as(new: &mut Flow, known: &Flow) {
    new.nat_v4 = known.nat_v4;
    new.nat_port_be = known.nat_port_be;
}

/// Takes over what is known of the flow. Whether the verdict too: it holds under the same generations alone.
#[inline(always)]
fn keep(new: &mut Flow, known: &Flow) -> bool {
    take_over(new, known, known.generation == new.generation);
    new.opener = known.opener;
    new.opened = known.opened;
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

/// Takes over what has been counted of the flow, and its ways if they still hold.
#[inline(always)]
fn take_over(new: &mut Flow, known: &Flow, same_ways: bool) {
    copy::<u64, _>(&mut new.halves, &known.halves);
    if same_ways {
        new.next_hop_v4 = known.next_hop_v4;
    } else {
        new.halves[0].way = Way::Unknown;
        new.halves[1].way = Way::Unknown;
    }
}

/// Writes the flow down, unless it is one that leaves no trace. `others`: there is an allowed flow that the other end
/// opened, which a denial of this one must not end.
#[inline(always)]
fn store(tuple: &Tuple, new: &Flow, others: bool) -> Result<(), Refusal> {
    let allowed = new.verdict == FlowVerdict::Allowed;
    // A full table refuses: then this packet passes on its verdict alone, and nothing is remembered.
    let stored = !tuple.has(Tuple::STATELESS) && (allowed || !others) && FLOWS.insert(&tuple.key, new, 0).is_ok();
    if allowed && !stored && !tuple.is_error() && !same(new.nat_v4, [0; 4]) {
        return Err(Refusal::Drop(DropReason::FlowTableFull));
    }
    if allowed { Ok(()) } else { Err(Refusal::Drop(denial(new.verdict))) }
}

/// Whether this end of the flow is a pod that has reached itself through a Service, by the name that it is given then.
#[inline(always)]
fn is_hairpin(flow: &Flow, end: &Party) -> bool {
    same(end.addr.v4(), Addr::GATEWAY.v4()) && !same(flow.nat_v4, [0; 4])
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

const _: () = assert!(align_of::<Flow>() == 8 && size_of::<Flow>().is_multiple_of(8));
