//! Tells whoever reads what happens: drops, and flows that are opened.
//!
//! In: a packet that is about to be dropped, or the flow that was just stored. Out: a record in `events`, or one lost event more.
//! Never: a wait, a change to the packet or to a flow; nor, while nobody reads, more than one look into `readers`.
//!
//! Both records are written by functions of their own (`extern "C"`), so that each is verified once and has a stack of its own.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_RB_NO_WAKEUP},
    helpers::bpf_ktime_get_boot_ns,
    maps::ring_buf::RingBufEntry,
    programs::TcContext,
};
use margay_maps::{
    Addr, DropReason, Event, EventCounts, EventKind, FlowVerdict, Hook,
    protocol::{SCTP, TCP, UDP},
};
use network_types::eth::EthHdr;

use crate::{
    encap::OVERHEAD,
    ipv4::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6},
    lookup::{EVENT_COUNTS, EVENTS, FLOWS, SCRATCH, TUPLE, read_until},
    packet::Packet,
    tuple::Tuple,
};

/// A packet was dropped. Inlined: while nobody reads, this is one comparison.
#[inline(always)]
pub fn dropped(skb: *mut __sk_buff, hook: Hook, reason: DropReason, bytes: u32) {
    if read_until() != 0 {
        tell_drop(skb, hook as u32, reason as u32, bytes);
    }
}

/// The flow in [`SCRATCH`], which the packet in [`TUPLE`] opens, may pass. Inlined as [`dropped`].
#[inline(always)]
pub fn opened() {
    if read_until() != 0 {
        tell_flow();
    }
}

/// Tells of a drop.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_drop(skb: *mut __sk_buff, hook: u32, reason: u32, bytes: u32) -> u32 {
    const EGRESS: u32 = DropReason::EgressDenied as u32;
    const INGRESS: u32 = DropReason::IngressDenied as u32;
    let (Some(now), Some(skb)) = (now_if_read(), NonNull::new(skb)) else { return 0 };
    if !is_in_budget(now, |counts| (&mut counts.drops, EventCounts::MAX_DROPS)) {
        return 0;
    }
    let Some(mut entry) = reserve() else { return 0 };
    let event = begin(&mut entry, now, EventKind::Drop);
    let packet = Packet::new(TcContext::new(skb));
    event.reason = reason;
    event.hook = hook;
    event.ifindex = packet.ifindex();
    event.bytes = bytes;
    // What policies deny has just been found in the flow table, or sought there: its tuple is this packet's.
    match reason {
        EGRESS => denied(event, FlowVerdict::EgressDenied),
        INGRESS => denied(event, FlowVerdict::IngressDenied),
        _ => read_ends(event, &packet),
    }
    entry.submit(BPF_RB_NO_WAKEUP as u64);
    1
}

/// Tells of the flow in [`SCRATCH`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_flow() -> u32 {
    let (Some(now), Some(tuple), Some(flow)) = (now_if_read(), TUPLE.get_ptr(0), SCRATCH.get_ptr(0)) else { return 0 };
    // SAFETY: this CPU's own elements; programs of one CPU do not run within each other at these hooks.
    let (tuple, flow) = unsafe { (&*tuple, &*flow) };
    if !is_in_budget(now, |counts| (&mut counts.flows, EventCounts::MAX_FLOWS)) {
        return 0;
    }
    let Some(mut entry) = reserve() else { return 0 };
    let event = begin(&mut entry, now, EventKind::Flow);
    let half = flow.half(flow.opener.half());
    event.ifindex = half.ifindex_in;
    event.verdict = flow.verdict;
    event.way = half.way;
    event.ifindex_out = half.ifindex;
    event.origins = flow.origins;
    write_ends(event, tuple);
    entry.submit(BPF_RB_NO_WAKEUP as u64);
    1
}

/// The time, if somebody reads at it.
#[inline(always)]
fn now_if_read() -> Option<u64> {
    // SAFETY: a plain call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    (now < read_until()).then_some(now)
}

/// Whether this CPU may tell of one more event of a kind in this window. One that it may not is lost.
#[inline(always)]
fn is_in_budget(now: u64, of_kind: impl Fn(&mut EventCounts) -> (&mut u32, u32)) -> bool {
    let Some(counts) = EVENT_COUNTS.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own element, as above.
    let counts = unsafe { &mut *counts };
    let window = now >> EventCounts::WINDOW_SHIFT;
    if counts.window != window {
        counts.window = window;
        counts.drops = 0;
        counts.flows = 0;
    }
    let (told, max) = of_kind(counts);
    if *told >= max {
        counts.suppressed = counts.suppressed.wrapping_add(1);
        return false;
    }
    *told += 1;
    true
}

/// Room for one event. Without it is lost.
#[inline(always)]
fn reserve() -> Option<RingBufEntry<Event>> {
    let event = EVENTS.reserve(0);
    if event.is_none()
        && let Some(counts) = EVENT_COUNTS.get_ptr_mut(0)
    {
        // SAFETY: as in `is_in_budget`.
        unsafe { (*counts).no_room = (*counts).no_room.wrapping_add(1) };
    }
    event
}

/// An event that says nothing yet but when and what.
#[inline(always)]
fn begin(entry: &mut RingBufEntry<Event>, now: u64, kind: EventKind) -> &mut Event {
    const WORDS: usize = size_of::<Event>() / 8;
    let event = entry.as_mut_ptr();
    let words: *mut u64 = event.cast();
    for i in 0..WORDS {
        // SAFETY: within the record, which is aligned for an `Event`, whose size is a multiple of a word's.
        unsafe { words.add(i).write_volatile(0) };
    }
    // SAFETY: as above; zero is valid for each field but the kind.
    let event = unsafe {
        (&raw mut (*event).kind).write(kind);
        &mut *event
    };
    event.time_ns = now;
    event
}

/// What policies deny: the ends of the packet in [`TUPLE`], and the rules that its flow remembers.
#[inline(always)]
fn denied(event: &mut Event, verdict: FlowVerdict) {
    event.verdict = verdict;
    let Some(tuple) = TUPLE.get_ptr(0) else { return };
    // SAFETY: as in `tell_flow`.
    let tuple = unsafe { &*tuple };
    write_ends(event, tuple);
    // SAFETY: ids are read as they are; between those of an old and a new verdict, either is right.
    if let Some(flow) = unsafe { FLOWS.get(&tuple.key) } {
        event.origins = flow.origins;
    }
}

#[inline(always)]
fn write_ends(event: &mut Event, tuple: &Tuple) {
    let (src, dst) = tuple.ends();
    event.src = src;
    event.dst = dst;
    (event.src_port_be, event.dst_port_be) = tuple.ends_ports();
    event.protocol = tuple.key.protocol;
}

/// The ends as they stand in the packet, as far as it has any: straight into the event, which `packet.copy` leaves zero where the
/// packet ends before.
#[inline(always)]
fn read_ends(event: &mut Event, packet: &Packet) {
    const FROM_UPLINK: u32 = Hook::FromUplink as u32;
    const UNKNOWN_NODE: u32 = DropReason::UnknownNode as u32;
    // What an uplink's program drops is an overlay packet, and for the packet inside, unless for its sender.
    if event.hook == FROM_UPLINK && event.reason != UNKNOWN_NODE {
        const INNER: usize = OVERHEAD as usize;
        if be16_at(packet, INNER + ETHER_TYPE) == ETHER_IPV4 {
            return read_ipv4(event, packet, INNER + EthHdr::LEN);
        }
    }
    match be16_at(packet, ETHER_TYPE) {
        ETHER_IPV4 => read_ipv4(event, packet, EthHdr::LEN),
        ETHER_IPV6 => read_ipv6(event, packet),
        ETHER_ARP => read_arp(event, packet),
        _ => {}
    }
}

/// Where the type of what it carries stands in a frame.
const ETHER_TYPE: usize = EthHdr::LEN - 2;

/// Two bytes as they stand in the packet; 0 where it ends before.
#[inline(always)]
fn be16_at(packet: &Packet, offset: usize) -> u16 {
    let mut bytes = [0; 2];
    packet.copy(offset, &mut bytes);
    u16::from_ne_bytes(bytes)
}

#[inline(always)]
fn read_ipv4(event: &mut Event, packet: &Packet, ip: usize) {
    read_v4(&mut event.src, packet, ip + 12);
    read_v4(&mut event.dst, packet, ip + 16);
    let mut protocol = [0; 1];
    packet.copy(ip + 9, &mut protocol);
    event.protocol = protocol[0];
    let is_later_fragment = u16::from_be(be16_at(packet, ip + 6)) & 0x1fff != 0;
    if is_later_fragment || !matches!(protocol[0], TCP | UDP | SCTP) {
        return;
    }
    let mut first = [0; 1];
    packet.copy(ip, &mut first);
    let ports = ip + (first[0] & 0x0f) as usize * 4;
    packet.copy(ports, &mut event.src_port_be);
    packet.copy(ports + 2, &mut event.dst_port_be);
}

/// Unspecified where the packet ends before.
#[inline(always)]
fn read_v4(to: &mut Addr, packet: &Packet, offset: usize) {
    let mut v4 = [0; 4];
    if packet.copy(offset, &mut v4) {
        *to = Addr::from_v4(v4);
    }
}

#[inline(always)]
fn read_ipv6(event: &mut Event, packet: &Packet) {
    const IP: usize = EthHdr::LEN;
    packet.copy(IP + 8, &mut event.src.bytes);
    packet.copy(IP + 24, &mut event.dst.bytes);
    let mut next_header = [0; 1];
    packet.copy(IP + 6, &mut next_header);
    event.protocol = next_header[0];
}

/// The addresses that an ARP packet for IPv4 over Ethernet speaks of (RFC 826).
#[inline(always)]
fn read_arp(event: &mut Event, packet: &Packet) {
    const ARP: usize = EthHdr::LEN;
    read_v4(&mut event.src, packet, ARP + 14);
    read_v4(&mut event.dst, packet, ARP + 24);
}
