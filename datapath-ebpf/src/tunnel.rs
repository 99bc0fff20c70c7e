//! The tunnel's data of packets at the overlay device: who sent them, and whom they are for.
//!
//! In: a packet's context. Out: a node's address, or a packet that carries one. Never: a decision.
//!
//! Functions of their own, as [`crate::open::open_flow`] is: the kernel's structure need not lie on the stack of the program while
//! that judges the packet.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key},
    helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
    programs::TcContext,
};

use crate::{lookup::Aligned, packet::Packet};

/// `struct bpf_tunnel_key` as it was in 4.14, 28 bytes: every kernel since takes this much, older ones no more
/// (net/core/filter.c, `bpf_skb_set_tunnel_key`).
const TUNNEL_KEY_SIZE: u32 = 28;

/// The time to live of what the overlay device sends, as for what we encapsulate ourselves.
const TUNNEL_TTL: u8 = 64;

/// The node that sent the packet, an IPv4 address in host byte order; 0 if it came with another network identifier, or by no
/// tunnel.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_tunnel(skb: *mut __sk_buff, vni: u32) -> u32 {
    let Some(skb) = NonNull::new(skb) else { return 0 };
    let packet = Packet::new(TcContext::new(skb));
    // SAFETY: plain integers, for which zero is valid.
    let mut key = Aligned::<bpf_tunnel_key>(unsafe { core::mem::zeroed() });
    let key = &mut key.0;
    // SAFETY: `key` is longer than the size given; the kernel hands a valid context to the program, which hands it on.
    if unsafe { bpf_skb_get_tunnel_key(packet.skb(), &raw mut *key, TUNNEL_KEY_SIZE, 0) } != 0 || key.tunnel_id != vni {
        return 0;
    }
    // SAFETY: every variant of the union is plain integers.
    unsafe { key.__bindgen_anon_1.remote_ipv4 }
}

/// Sends the packet to `node`, an IPv4 address in host byte order. 0, or 1 if the kernel refused.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn write_tunnel(skb: *mut __sk_buff, node: u32, vni: u32) -> u32 {
    let Some(skb) = NonNull::new(skb) else { return 1 };
    let packet = Packet::new(TcContext::new(skb));
    // SAFETY: plain integers, for which zero is valid.
    let mut key = Aligned::<bpf_tunnel_key>(unsafe { core::mem::zeroed() });
    let key = &mut key.0;
    key.tunnel_id = vni;
    key.tunnel_ttl = TUNNEL_TTL;
    key.__bindgen_anon_1.remote_ipv4 = node;
    // SAFETY: as in `read_tunnel`.
    let done =
        unsafe { bpf_skb_set_tunnel_key(packet.skb(), &raw mut *key, TUNNEL_KEY_SIZE, BPF_F_ZERO_CSUM_TX as u64) };
    (done != 0) as u32
}
