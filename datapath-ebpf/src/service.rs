//! Which backend stands for a Service.
//!
//! In: the packet in [`TUPLE`], from a pod, that no entry of the flow table is current for. Out: its tuple is that of the
//! flow to a backend, and the choice stands in the flow table. Never: a verdict; that is about the backend, and comes after.
//!
//! A choice is kept for as long as the conversation lasts. When Services have changed, a UDP flow and a new
//! connection look whether their backend is still one; an established connection stays with its own, which may
//! be draining.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use margay_maps::{
    Addr, Affinity, AffinityKey, Backend, BackendKey, DropReason, Flow, FlowVerdict, Member, Opener, Service,
    ServiceState, protocol::UDP,
};

use crate::{
    flow::is_closed,
    lookup::{AFFINITY, BACKENDS, CHOICE, FLOWS, MEMBERS, SCRATCH, SERVICES, TUPLE, clock, config, is_allowed, is_own},
    open::clear,
    tuple::Tuple,
    words::same,
};

/// What [`translate`] answers: the packet is for no Service.
pub const NOT_A_SERVICE: u32 = 0;
/// The tuple is that of the flow to the backend.
pub const TRANSLATED: u32 = 1;
/// The Service has no endpoint: say so.
pub const REJECTED: u32 = 2;
/// It has none on this node, which is the only one it may use.
pub const NONE_HERE: u32 = 3;
/// The choice cannot be written down.
pub const TABLE_FULL: u32 = 4;
/// The set that the Service named is gone: it has changed in this very moment.
pub const NO_BACKEND: u32 = 5;

/// The keys and values of one choice. In a map: together they are too big for the stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Choice {
    /// The set that the Service names, and the backend that is being considered; in the end, the one that was chosen.
    member: Member,
    /// Which of the set.
    index: BackendKey,
    /// Who asks for which Service.
    client: AffinityKey,
    /// What is remembered of it.
    affinity: Affinity,
    /// The generation of Services that the choice was made under.
    generation: u32,
}

/// Leads the packet in [`TUPLE`] to a backend, if it is for a Service. `ifindex`: where it came in. `known`: not zero if there is an entry
/// that leads to one.
///
/// A function of its own for the verifier, as is [`crate::open::open_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn translate(ifindex: u32, known: u32) -> u32 {
    let (Some(tuple), Some(choice)) = (TUPLE.get_ptr_mut(0), CHOICE.get_ptr_mut(0)) else { return NOT_A_SERVICE };
    // SAFETY: this CPU's own elements; programs of one CPU do not run within each other at these hooks.
    let (tuple, choice) = unsafe { (&mut *tuple, &mut *choice) };
    if tuple.has(Tuple::ABOUT_OTHER) {
        return lead_error(tuple, ifindex);
    }
    if tuple.has(Tuple::STATELESS) {
        return NOT_A_SERVICE;
    }
    let chosen = choose(tuple, choice, ifindex, known != 0);
    if chosen == TRANSLATED {
        tuple.lead_to(choice.member.backend.addr.v4(), choice.member.backend.port_be);
    }
    chosen
}

/// Leads an ICMP error of a pod, about what a Service has answered it, to the backend that has.
#[inline(always)]
fn lead_error(tuple: &mut Tuple, ifindex: u32) -> u32 {
    tuple.set_about();
    tuple.look_up_ends();
    let sender = tuple.party(tuple.half);
    let is_own = same(sender.addr.v4(), tuple.ip.src) && sender.is_behind(ifindex);
    // SAFETY: as in `flow::look_up`.
    if let Some(entry) = unsafe { FLOWS.get(&tuple.key) }
        && is_own
        && entry.verdict == FlowVerdict::Translated
        && entry.opener.half() == tuple.half
    {
        tuple.lead_to(entry.nat_v4, entry.nat_port_be);
        if is_allowed(&tuple.key) {
            return TRANSLATED;
        }
    }
    tuple.set_about_nothing();
    NOT_A_SERVICE
}

/// Finds the backend, which is in `choice` and in the flow table when this is [`TRANSLATED`].
#[inline(always)]
fn choose(tuple: &mut Tuple, choice: &mut Choice, ifindex: u32, known: bool) -> u32 {
    (choice.client.client, choice.client.service.addr) = tuple.ends();
    choice.client.service.port_be = tuple.ends_ports().1;
    choice.client.service.protocol = tuple.key.protocol;
    // Before the Service, so that a choice among old backends does not pass for one among new ones.
    choice.generation = config().map_or(0, |config| config.service_generation);
    // SAFETY: its fields are read once each. Between an old and a new value, whatever is read of either is the Service's.
    let service = unsafe { SERVICES.get(&choice.client.service) };
    // Nearly every flow is none to a Service, and a stranger's packet leaves no trace: it is refused as any other.
    if (service.is_none() && !known) || !is_own(&choice.client.client, ifindex) {
        return NOT_A_SERVICE;
    }
    let known = known && is_known(tuple, choice);
    let is_established = known && !tuple.has(Tuple::OPENS) && tuple.key.protocol != UDP;
    let Some(service) = service else {
        // A Service that is gone: its connections end as their ends like.
        return if is_established { TRANSLATED } else { NOT_A_SERVICE };
    };
    choice.member.set = service.set;
    if known && (is_established || is_member(choice)) {
        return write_down(tuple, choice);
    }
    match service.state {
        ServiceState::Served => {}
        ServiceState::NoEndpoints => return REJECTED,
        ServiceState::NoneHere => return NONE_HERE,
    }
    if pick(choice, service) { write_down(tuple, choice) } else { NO_BACKEND }
}

/// Whether this conversation has a backend already, which is in `choice` then. A SYN on a closed one begins another.
#[inline(always)]
fn is_known(tuple: &mut Tuple, choice: &mut Choice) -> bool {
    // SAFETY: as in `flow::look_up`.
    let Some(entry) = (unsafe { FLOWS.get(&tuple.key) }) else { return false };
    if entry.verdict != FlowVerdict::Translated || entry.opener.half() != tuple.half {
        return false;
    }
    choice.member.backend.addr = Addr::from_v4(entry.nat_v4);
    choice.member.backend.port_be = entry.nat_port_be;
    !tuple.has(Tuple::OPENS) || is_open(tuple, &choice.member.backend)
}

/// Whether the flow to this backend is allowed, and not closed.
#[inline(always)]
fn is_open(tuple: &mut Tuple, backend: &Backend) -> bool {
    let (key, half, flags, nat, nat_port_be) = (tuple.key, tuple.half, tuple.flags, tuple.nat, tuple.nat_port_be);
    tuple.lead_to(backend.addr.v4(), backend.port_be);
    // SAFETY: as in `flow::look_up`.
    let flow = unsafe { FLOWS.get(&tuple.key) };
    let open = flow.is_some_and(|flow| flow.verdict == FlowVerdict::Allowed && !is_closed(flow));
    (tuple.key, tuple.half, tuple.flags, tuple.nat, tuple.nat_port_be) = (key, half, flags, nat, nat_port_be);
    open
}

/// Picks the client's last backend, if the Service keeps those, or any. Whether there is one.
#[inline(always)]
fn pick(choice: &mut Choice, service: &Service) -> bool {
    let affinity_secs = service.affinity_secs;
    if affinity_secs != 0
        // SAFETY: the element may be overwritten meanwhile by this client's other packets: either backend is right.
        && let Some(last) = unsafe { AFFINITY.get(&choice.client) }
        && clock().wrapping_sub(last.last_used) < affinity_secs
    {
        choice.member.backend = last.backend;
        if is_member(choice) {
            remember(choice);
            return true;
        }
    }
    // SAFETY: a plain call.
    let random = unsafe { bpf_get_prandom_u32() } as u64;
    choice.index.set = service.set;
    choice.index.index = ((random * service.count as u64) >> 32) as u32;
    // SAFETY: entries of a set are never changed.
    let Some(backend) = (unsafe { BACKENDS.get(&choice.index) }) else { return false };
    choice.member.backend = *backend;
    if affinity_secs != 0 {
        remember(choice);
    }
    true
}

/// Remembers which backend the client was led to.
#[inline(always)]
fn remember(choice: &mut Choice) {
    choice.affinity.backend = choice.member.backend;
    choice.affinity.last_used = clock();
    // The oldest makes room.
    let _full = AFFINITY.insert(&choice.client, &choice.affinity, 0);
}

#[inline(always)]
fn is_member(choice: &Choice) -> bool {
    // SAFETY: only presence counts.
    unsafe { MEMBERS.get(&choice.member) }.is_some()
}

/// Writes the choice into the flow table.
#[inline(always)]
fn write_down(tuple: &Tuple, choice: &Choice) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return TABLE_FULL };
    // SAFETY: as in `translate`.
    let new: &mut Flow = unsafe { &mut *scratch };
    clear(new);
    new.verdict = FlowVerdict::Translated;
    new.opener = Opener::of_half(tuple.half);
    new.opened = clock();
    new.generation = choice.generation;
    new.nat_v4 = choice.member.backend.addr.v4();
    new.nat_port_be = choice.member.backend.port_be;
    if FLOWS.insert(&tuple.key, new, 0).is_ok() { TRANSLATED } else { TABLE_FULL }
}

/// What [`translate`] refused, as a reason to drop.
#[inline(always)]
pub fn reason(answer: u32) -> DropReason {
    match answer {
        NONE_HERE => DropReason::NoLocalEndpoint,
        TABLE_FULL => DropReason::FlowTableFull,
        _ => DropReason::RewriteFailed,
    }
}
