//! The answer to a packet for a Service without endpoints, at once and to the pod itself: a TCP reset, or ICMP "port
//! unreachable".
//!
//! In: the pod's packet. Out: the answer, in its place. Never: an answer to a packet that must not have one.
//!
//! This is the one ICMP error that is made here. The host's stack cannot be asked for it: it knows nothing of Services, and would
//! send the packet out into the world.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail},
    programs::TcContext,
};
use margay_maps::{
    DropReason, Hook, Mac, Outcome,
    protocol::{
        ICMP, SCTP, TCP,
        tcp::{ACK, FIN, RST, SYN},
    },
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{
    count::{Verdict, count_drop},
    events,
    ipv4::{ETHER_IPV4, Ipv4},
    lookup::TUPLE,
    packet::{Header, Packet},
    tuple::Tuple,
};

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// ICMP's destination unreachable, port unreachable (RFC 792).
const UNREACHABLE: u8 = 3;
const PORT: u8 = 3;
/// The time to live of the answer, which is at its goal at once.
const TTL: u8 = 64;
/// A TCP header's length without options, in words of four bytes, in the upper half of its byte (RFC 9293, section 3.1).
const FIVE_WORDS: u8 = 5 << 4;

/// Bytes of the packet that an error quotes: its header, and as much as the kernel will have (RFC 792 asks for 8; a begun SCTP
/// checksum ends at 12).
const QUOTE: usize = Ipv4Hdr::LEN + 8;
const QUOTE_SCTP: usize = Ipv4Hdr::LEN + 12;

/// A TCP header without options (RFC 9293, section 3.1).
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Tcp {
    src: [u8; 2],
    dst: [u8; 2],
    seq: [u8; 4],
    ack: [u8; 4],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    sum: [u8; 2],
    urgent: [u8; 2],
}

const _: () = assert!(size_of::<Tcp>() == TCP_LEN);

// SAFETY: bytes throughout, without padding.
unsafe impl Header for Tcp {}

/// Answers the pod behind `ifindex`.
#[inline(always)]
pub fn answer(packet: &mut Packet, tuple: &mut Tuple, ip: &Ipv4, ifindex: u32) -> Result<Verdict, DropReason> {
    tuple.ip = *ip;
    match reject_packet(packet.skb()) {
        // SAFETY: a plain call.
        ANSWERED => Ok(Verdict::redirect(Outcome::Answered, unsafe { bpf_redirect_peer(ifindex, 0) })),
        NO_ANSWER => Err(DropReason::ServiceWithoutEndpoints),
        _ => Err(DropReason::RewriteFailed),
    }
}

/// What [`reject_packet`] answers: the packet is the answer now.
const ANSWERED: u32 = 0;
/// It is one that has none.
const NO_ANSWER: u32 = 1;
/// The kernel refused.
const FAILED: u32 = 2;

/// Makes the packet in [`TUPLE`] its own answer. A function of its own for the verifier, as is [`crate::open::open_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reject_packet(skb: *mut __sk_buff) -> u32 {
    let (Some(tuple), Some(skb)) = (TUPLE.get_ptr(0), NonNull::new(skb)) else { return FAILED };
    // SAFETY: this CPU's own element; programs of one CPU do not run within each other at these hooks.
    let ip = unsafe { &(*tuple).ip };
    let mut packet = Packet::new(TcContext::new(skb));
    // Fragments and what carries options are dropped without a word.
    if ip.header_len != Ipv4Hdr::LEN as u32 || ip.is_fragment() {
        return NO_ANSWER;
    }
    if ip.proto != TCP {
        tell(&packet);
        return (unreachable(&mut packet, ip).and_then(|()| send_back(&mut packet)).is_none() as u32) * FAILED;
    }
    let Some(tcp) = read_tcp(&mut packet) else { return NO_ANSWER };
    if tcp.flags & RST != 0 {
        return NO_ANSWER;
    }
    tell(&packet);
    (reset(&mut packet, ip, &tcp).and_then(|()| send_back(&mut packet)).is_none() as u32) * FAILED
}

/// Counts and tells of the packet, as long as it is what it was.
#[inline(always)]
fn tell(packet: &Packet) {
    let (reason, bytes) = (DropReason::ServiceWithoutEndpoints, packet.bytes());
    count_drop(reason, bytes);
    events::dropped(packet.skb(), Hook::FromWorkload, reason, bytes);
}

/// Addresses the frame to where it came from.
#[inline(always)]
fn send_back(packet: &mut Packet) -> Option<()> {
    let eth = packet.at_mut::<EthHdr>(0)?;
    eth.dst_addr = eth.src_addr;
    eth.src_addr = Mac::GATEWAY.bytes;
    eth.ether_type = ETHER_IPV4;
    Some(())
}

/// The packet's TCP header.
#[inline(always)]
fn read_tcp(packet: &mut Packet) -> Option<Tcp> {
    if !packet.pull(EthHdr::LEN + Ipv4Hdr::LEN + TCP_LEN) {
        return None;
    }
    packet.at::<Tcp>(EthHdr::LEN + Ipv4Hdr::LEN).copied()
}

/// A reset (RFC 9293, section 3.10.7.1: the connection does not exist).
#[inline(always)]
fn reset(packet: &mut Packet, ip: &Ipv4, was: &Tcp) -> Option<()> {
    trim(packet, EthHdr::LEN + Ipv4Hdr::LEN + TCP_LEN)?;
    let payload = ip.total_len.wrapping_sub(ip.header_len).wrapping_sub(((was.offset >> 4) as u32) * 4);
    let counted = payload.wrapping_add((was.flags & SYN != 0) as u32).wrapping_add((was.flags & FIN != 0) as u32);
    let (seq, ack, flags) = if was.flags & ACK != 0 {
        (was.ack, [0; 4], RST)
    } else {
        ([0; 4], u32::from_be_bytes(was.seq).wrapping_add(counted).to_be_bytes(), RST | ACK)
    };
    let mut tcp = Tcp {
        src: was.dst,
        dst: was.src,
        seq,
        ack,
        offset: FIVE_WORDS,
        flags,
        window: [0; 2],
        sum: [0; 2],
        urgent: [0; 2],
    };
    let pseudo = sum4(ip.src) + sum4(ip.dst) + TCP as u32 + TCP_LEN as u32;
    let ports = sum2(tcp.src) + sum2(tcp.dst);
    tcp.sum = fold(pseudo + ports + sum4(tcp.seq) + sum4(tcp.ack) + sum2([FIVE_WORDS, flags]));
    *packet.at_mut::<Tcp>(EthHdr::LEN + Ipv4Hdr::LEN)? = tcp;
    header(packet, ip, TCP, Ipv4Hdr::LEN + TCP_LEN)
}

/// "Port unreachable", with the beginning of the packet.
#[inline(always)]
fn unreachable(packet: &mut Packet, ip: &Ipv4) -> Option<()> {
    let quote = if ip.proto == SCTP { QUOTE_SCTP } else { QUOTE };
    trim(packet, EthHdr::LEN + quote)?;
    let room = (Ipv4Hdr::LEN + ICMP_LEN) as i32;
    // SAFETY: a plain call on the packet's own context.
    if unsafe { bpf_skb_adjust_room(packet.skb(), room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO as u64) } != 0 {
        return None;
    }
    if !packet.pull(EthHdr::LEN + Ipv4Hdr::LEN + ICMP_LEN + quote) {
        return None;
    }
    let at = EthHdr::LEN + Ipv4Hdr::LEN;
    // Type and code; checksum and the unused word are zero.
    let mut sum = sum2([UNREACHABLE, PORT]) + quoted::<QUOTE>(packet, at + ICMP_LEN)?;
    if quote == QUOTE_SCTP {
        sum += quoted::<4>(packet, at + ICMP_LEN + QUOTE)?;
    }
    let [a, b] = fold(sum);
    *packet.at_mut::<[u8; ICMP_LEN]>(at)? = [UNREACHABLE, PORT, a, b, 0, 0, 0, 0];
    header(packet, ip, ICMP, Ipv4Hdr::LEN + ICMP_LEN + quote)
}

/// Bytes of an ICMP error's own header.
const ICMP_LEN: usize = 8;

/// The sum of `N` bytes of the packet, in words.
#[inline(always)]
fn quoted<const N: usize>(packet: &Packet, at: usize) -> Option<u32> {
    let bytes = packet.at::<[u8; N]>(at)?;
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        sum += sum2([*bytes.get(i)?, *bytes.get(i + 1)?]);
        i += 2;
    }
    Some(sum)
}

/// The answer's IPv4 header: from whom the packet was for, to whom it came from.
#[inline(always)]
fn header(packet: &mut Packet, ip: &Ipv4, proto: u8, len: usize) -> Option<()> {
    let mut answer = Ipv4Hdr {
        vihl: 0x45,
        tos: 0,
        tot_len: (len as u16).to_be_bytes(),
        id: [0; 2],
        // Do not fragment: then no identification is needed (RFC 6864, section 4.1).
        frags: [0x40, 0],
        ttl: TTL,
        proto,
        check: [0; 2],
        src_addr: ip.dst,
        dst_addr: ip.src,
    };
    let own = sum2([answer.vihl, answer.tos]) + sum2(answer.tot_len) + sum2(answer.frags) + sum2([TTL, proto]);
    answer.check = fold(own + sum4(ip.src) + sum4(ip.dst));
    *packet.at_mut::<Ipv4Hdr>(EthHdr::LEN)? = answer;
    Some(())
}

/// Cuts the packet to `len` bytes, Ethernet header included.
#[inline(always)]
fn trim(packet: &mut Packet, len: usize) -> Option<()> {
    // SAFETY: a plain call on the packet's own context.
    let done = unsafe { bpf_skb_change_tail(packet.skb(), len as u32, 0) };
    (done == 0).then_some(())
}

#[inline(always)]
fn sum2(bytes: [u8; 2]) -> u32 {
    u16::from_be_bytes(bytes) as u32
}

#[inline(always)]
fn sum4([a, b, c, d]: [u8; 4]) -> u32 {
    sum2([a, b]) + sum2([c, d])
}

/// The checksum that a sum of words makes (RFC 1071).
#[inline(always)]
fn fold(sum: u32) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum + (sum >> 16)) as u16)).to_be_bytes()
}
