//! Readdressing: packets to a Service go to a backend, and what comes back comes from the Service.
//!
//! In: the packet, and in its [`Tuple`] what its ends are to be. Out: the packet, with checksums that are right. Never: a choice of where to.
//!
//! The transport's checksum is changed by the kernel's helper, which knows whether it is complete, or only begun
//! because a device will finish it.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use margay_maps::{
    DropReason,
    protocol::{SCTP, TCP, UDP},
};
use network_types::ip::Ipv4Hdr;

use crate::{ipv4::Ipv4, lookup::TUPLE, packet::Packet, sctp, tuple::Tuple, words::word};

/// Where the checksum stands in an IPv4 header, and the two addresses (RFC 791, section 3.1).
const IP_CHECKSUM: u32 = 10;
const IP_SRC: u32 = 12;
const IP_DST: u32 = 16;
/// Where it stands in a TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260) and ICMP (RFC 792) header.
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const SCTP_CHECKSUM: u32 = 8;
const ICMP_CHECKSUM: u32 = 2;
/// An ICMP error's own header, in front of the packet that it is about.
const ICMP_LEN: u32 = 8;

/// Readdresses the packet whose IPv4 header `ip` is at `offset`, as its tuple, which is the one in [`TUPLE`], says.
#[inline(always)]
pub fn rewrite(packet: &mut Packet, tuple: &mut Tuple, ip: &Ipv4, offset: usize) -> Result<(), DropReason> {
    tuple.ip = *ip;
    if rewrite_packet(packet.skb(), offset as u32) == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// Readdresses the packet in [`TUPLE`]. 0, or 1 if that failed. A function of its own for the verifier, as is
/// [`crate::open::open_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rewrite_packet(skb: *mut __sk_buff, offset: u32) -> u32 {
    let (Some(tuple), Some(skb)) = (TUPLE.get_ptr(0), NonNull::new(skb)) else { return 1 };
    // SAFETY: this CPU's own element; programs of one CPU do not run within each other at these hooks.
    let tuple = unsafe { &*tuple };
    let packet = Edit { packet: Packet::new(TcContext::new(skb)) };
    // No header that is changed here begins further in; the verifier must know.
    let offset = offset & 0x7f;
    let done = if tuple.is_error() { packet.error(tuple, offset) } else { packet.ends(tuple, offset) };
    done.is_none() as u32
}

/// A packet that is being changed. Its functions give `None` where the kernel refuses.
struct Edit {
    packet: Packet,
}

// === impl Edit ===

impl Edit {
    /// Both ends of the packet itself.
    #[inline(always)]
    fn ends(&self, tuple: &Tuple, ip: u32) -> Option<()> {
        let (to, was) = (&tuple.to, &tuple.ip);
        if !was.is_later_fragment() {
            self.transport(tuple, ip + (was.header_len & 0x3c))?;
        }
        self.address(ip, IP_SRC, was.src, to.src)?;
        self.address(ip, IP_DST, was.dst, to.dst)
    }

    /// The transport's checksum and ports. `at`: where its header begins.
    #[inline(always)]
    fn transport(&self, tuple: &Tuple, at: u32) -> Option<()> {
        let (to, was) = (&tuple.to, &tuple.ip);
        let [a, b] = to.src_port;
        let [c, d] = to.dst_port;
        let (before, after) = (tuple.ports_in_packet(), [a, b, c, d]);
        match was.proto {
            TCP => self.sum(tuple, at + TCP_CHECKSUM, before, after, 0)?,
            // Zero means that there is none (RFC 768), and stays.
            UDP => self.sum(tuple, at + UDP_CHECKSUM, before, after, BPF_F_MARK_MANGLED_0 as u64)?,
            // Addresses are not in it.
            SCTP if word(before) != word(after) => {
                // Of a message in fragments nobody here knows the length; SCTP cuts its messages itself.
                let len = was.total_len.wrapping_sub(was.header_len);
                let sum: [u8; 4] = self.load(at + SCTP_CHECKSUM)?;
                // Zero: a device is to compute it, or the kernel in its place, over what stands there now.
                if word(sum) != 0 {
                    let sum = u32::from_le_bytes(sum) ^ sctp::checksum_change(before, after, len);
                    self.store(at + SCTP_CHECKSUM, sum.to_le_bytes())?;
                }
            }
            _ => {}
        }
        if word(before) == word(after) {
            return Some(());
        }
        self.store(at, after)
    }

    /// A checksum over addresses and ports. `before`, `after`: the ports.
    #[inline(always)]
    fn sum(&self, tuple: &Tuple, at: u32, before: [u8; 4], after: [u8; 4], flags: u64) -> Option<()> {
        let (to, was) = (&tuple.to, &tuple.ip);
        let pseudo = BPF_F_PSEUDO_HDR as u64 | flags;
        self.replace(at, was.src, to.src, pseudo)?;
        self.replace(at, was.dst, to.dst, pseudo)?;
        self.replace(at, before, after, flags)
    }

    /// Four bytes of what a transport's checksum is about.
    #[inline(always)]
    fn replace(&self, at: u32, before: [u8; 4], after: [u8; 4], flags: u64) -> Option<()> {
        if word(before) == word(after) {
            return Some(());
        }
        let (from, to) = (word(before) as u64, word(after) as u64);
        // SAFETY: plain numbers; the kernel checks the offset. The lowest bits of the flags are the size.
        let done = unsafe { bpf_l4_csum_replace(self.packet.skb(), at, from, to, flags | 4) };
        (done == 0).then_some(())
    }

    /// An address in the IPv4 header at `ip`, and that header's checksum.
    #[inline(always)]
    fn address(&self, ip: u32, at: u32, before: [u8; 4], after: [u8; 4]) -> Option<()> {
        if word(before) == word(after) {
            return Some(());
        }
        let (from, to) = (word(before) as u64, word(after) as u64);
        // SAFETY: as in `replace`.
        let done = unsafe { bpf_l3_csum_replace(self.packet.skb(), ip + IP_CHECKSUM, from, to, 4) };
        if done != 0 {
            return None;
        }
        self.store(ip + at, after)
    }

    /// Of an ICMP error: its own ends, and those of the packet that it is about, which went the other way. What changes in the header
    /// inside cancels out in ICMP's own checksum, but for the ports.
    #[inline(always)]
    fn error(&self, tuple: &Tuple, ip: u32) -> Option<()> {
        let (to, was) = (&tuple.to, &tuple.ip);
        let icmp = ip + (was.header_len & 0x3c);
        let inner = icmp + ICMP_LEN;
        let (src, dst) = if tuple.has(Tuple::TO_BACKEND) { (was.src, tuple.nat) } else { tuple.ends_v4() };
        self.address(inner, IP_SRC, dst, to.dst)?;
        self.address(inner, IP_DST, src, to.src)?;
        if matches!(tuple.key.protocol, TCP | UDP | SCTP) {
            let [a, b, c, d] = tuple.ports_in_packet();
            let ([e, f], [g, h]) = (to.src_port, to.dst_port);
            let (before, after) = ([c, d, a, b], [g, h, e, f]);
            if word(before) != word(after) {
                self.replace(icmp + ICMP_CHECKSUM, before, after, 0)?;
                self.store(inner + Ipv4Hdr::LEN as u32, after)?;
            }
        }
        // A router on the way says it in its own name.
        if word(was.src) == word(src) {
            self.address(ip, IP_SRC, was.src, to.src)?;
        }
        self.address(ip, IP_DST, was.dst, to.dst)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: `bytes` is as long as the length given.
        let done = unsafe { bpf_skb_load_bytes(self.packet.skb().cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        (done == 0).then_some(bytes)
    }

    #[inline(always)]
    fn store<const N: usize>(&self, at: u32, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as in `load`.
        let done = unsafe { bpf_skb_store_bytes(self.packet.skb(), at, bytes.as_ptr().cast(), N as u32, 0) };
        (done == 0).then_some(())
    }
}
