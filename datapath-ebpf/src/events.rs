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
    programs::TcContext,
};
use margay_maps::{
    Addr, DropReason, Event, EventCounts, EventKind, Flow, FlowVerdict, Hook, Id, Way,
    protocol::{SCTP, TCP, UDP},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{
    encap::OVERHEAD,
    flow::ends,
    ipv4::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6},
    lookup::{EVENT_COUNTS, EVENTS, FLOWS, SCRATCH, TUPLE, read_until},
    packet::Packet,
    tuple::{Tuple, dst_port},
};

/// Who sent what to whom.
struct Ends {
    src: Addr,
    dst: Addr,
    src_port_be: [u8; 2],
    dst_port_be: [u8; 2],
    protocol: u8,
}

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
    let packet = Packet::new(TcContext::new(skb));
    // What policies deny has just been found in the flow table, or sought there: its tuple is this packet's.
    let verdict = match reason {
        EGRESS => FlowVerdict::EgressDenied,
        INGRESS => FlowVerdict::IngressDenied,
        _ => FlowVerdict::Unknown,
    };
    let (ends, origins) =
        if verdict == FlowVerdict::Unknown { (read_ends(&packet, hook, reason), [Id::NONE; 2]) } else { of_tuple() };
    let Some(mut event) = reserve() else { return 0 };
    let to = event.as_mut_ptr();
    // SAFETY: the ring buffer has given this memory to us alone, aligned for an `Event`; `write_common` writes all that is not
    // written here.
    unsafe {
        write_common(to, now, &ends, origins);
        (&raw mut (*to).kind).write(EventKind::Drop);
        (&raw mut (*to).reason).write(reason);
        (&raw mut (*to).hook).write(hook);
        (&raw mut (*to).ifindex).write(packet.ifindex());
        (&raw mut (*to).bytes).write(bytes);
        (&raw mut (*to).verdict).write(verdict);
        (&raw mut (*to).way).write(Way::Unknown);
        (&raw mut (*to).ifindex_out).write(0);
    }
    event.submit(BPF_RB_NO_WAKEUP as u64);
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
    let Some(mut event) = reserve() else { return 0 };
    let to = event.as_mut_ptr();
    let half = if flow.opener == 0 { &flow.halves[0] } else { &flow.halves[1] };
    // SAFETY: as in `tell_drop`.
    unsafe {
        write_common(to, now, &ends_of(tuple), flow.origins);
        (&raw mut (*to).kind).write(EventKind::Flow);
        (&raw mut (*to).reason).write(0);
        (&raw mut (*to).hook).write(0);
        (&raw mut (*to).ifindex).write(half.ifindex_in);
        (&raw mut (*to).bytes).write(0);
        (&raw mut (*to).verdict).write(flow.verdict);
        (&raw mut (*to).way).write(half.way);
        (&raw mut (*to).ifindex_out).write(half.ifindex);
    }
    event.submit(BPF_RB_NO_WAKEUP as u64);
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
fn reserve() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<Event>> {
    let event = EVENTS.reserve(0);
    if event.is_none()
        && let Some(counts) = EVENT_COUNTS.get_ptr_mut(0)
    {
        // SAFETY: as in `is_in_budget`.
        unsafe { (*counts).no_room = (*counts).no_room.wrapping_add(1) };
    }
    event
}

/// What both kinds of events have.
///
/// # Safety
/// `to` must be valid for writing an `Event`.
#[inline(always)]
unsafe fn write_common(to: *mut Event, now: u64, ends: &Ends, origins: [Id; 2]) {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*to).time_ns).write(now);
        (&raw mut (*to).src).write(ends.src);
        (&raw mut (*to).dst).write(ends.dst);
        (&raw mut (*to).src_port_be).write(ends.src_port_be);
        (&raw mut (*to).dst_port_be).write(ends.dst_port_be);
        (&raw mut (*to).protocol).write(ends.protocol);
        (&raw mut (*to).pad).write([0; 3]);
        (&raw mut (*to).origins).write(origins);
    }
}

/// The ends of the packet in [`TUPLE`], and the rules that its flow remembers.
#[inline(always)]
fn of_tuple() -> (Ends, [Id; 2]) {
    let Some(tuple) = TUPLE.get_ptr(0) else { return (NOBODY, [Id::NONE; 2]) };
    // SAFETY: as in `tell_flow`.
    let tuple = unsafe { &*tuple };
    // SAFETY: ids are read as they are; between those of an old and a new verdict, either is right.
    let known: Option<&Flow> = unsafe { FLOWS.get(&tuple.key) };
    (ends_of(tuple), known.map_or([Id::NONE; 2], |flow| flow.origins))
}

#[inline(always)]
fn ends_of(tuple: &Tuple) -> Ends {
    let (src, dst) = ends(tuple, tuple.half);
    Ends {
        src: *src,
        dst: *dst,
        src_port_be: dst_port(&tuple.key, tuple.half ^ 1),
        dst_port_be: dst_port(&tuple.key, tuple.half),
        protocol: tuple.key.protocol,
    }
}

/// No end is known.
const NOBODY: Ends =
    Ends { src: Addr::UNSPECIFIED, dst: Addr::UNSPECIFIED, src_port_be: [0; 2], dst_port_be: [0; 2], protocol: 0 };

/// The ends as they stand in the packet, as far as it has any.
#[inline(always)]
fn read_ends(packet: &Packet, hook: u32, reason: u32) -> Ends {
    const FROM_UPLINK: u32 = Hook::FromUplink as u32;
    const UNKNOWN_NODE: u32 = DropReason::UnknownNode as u32;
    let mut eth = 0;
    // What an uplink's program drops is an overlay packet, and for the packet inside, unless for its sender.
    if hook == FROM_UPLINK && reason != UNKNOWN_NODE && ether_type(packet, OVERHEAD as usize) == ETHER_IPV4 {
        eth = OVERHEAD as usize;
    }
    match ether_type(packet, eth) {
        ETHER_IPV4 => ipv4_ends(packet, eth + EthHdr::LEN),
        ETHER_IPV6 => ipv6_ends(packet, eth + EthHdr::LEN),
        ETHER_ARP => arp_ends(packet, eth + EthHdr::LEN),
        _ => NOBODY,
    }
}

/// In network byte order; 0 where the packet ends before.
#[inline(always)]
fn ether_type(packet: &Packet, eth: usize) -> u16 {
    u16::from_ne_bytes(load(packet, eth + EthHdr::LEN - 2).unwrap_or_default())
}

#[inline(always)]
fn load<const N: usize>(packet: &Packet, offset: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    packet.copy(offset, &mut bytes).then_some(bytes)
}

#[inline(always)]
fn ipv4_ends(packet: &Packet, ip: usize) -> Ends {
    let (Some(first), Some(src), Some(dst)) =
        (load::<12>(packet, ip), load::<4>(packet, ip + 12), load::<4>(packet, ip + 16))
    else {
        return NOBODY;
    };
    let protocol = first[9];
    let mut ports = [0; 4];
    let is_later_fragment = u16::from_be_bytes([first[6], first[7]]) & 0x1fff != 0;
    if matches!(protocol, TCP | UDP | SCTP) && !is_later_fragment {
        let header_len = ((first[0] & 0x0f) as usize * 4).max(Ipv4Hdr::LEN);
        ports = load(packet, ip + header_len).unwrap_or_default();
    }
    let [a, b, c, d] = ports;
    Ends { src: Addr::from_v4(src), dst: Addr::from_v4(dst), src_port_be: [a, b], dst_port_be: [c, d], protocol }
}

#[inline(always)]
fn ipv6_ends(packet: &Packet, ip: usize) -> Ends {
    let (Some([protocol]), Some(src), Some(dst)) =
        (load::<1>(packet, ip + 6), load::<16>(packet, ip + 8), load::<16>(packet, ip + 24))
    else {
        return NOBODY;
    };
    Ends { src: Addr { bytes: src }, dst: Addr { bytes: dst }, protocol, ..NOBODY }
}

/// The addresses that an ARP packet for IPv4 over Ethernet speaks of (RFC 826).
#[inline(always)]
fn arp_ends(packet: &Packet, arp: usize) -> Ends {
    let (Some(src), Some(dst)) = (load::<4>(packet, arp + 14), load::<4>(packet, arp + 24)) else { return NOBODY };
    Ends { src: Addr::from_v4(src), dst: Addr::from_v4(dst), ..NOBODY }
}
