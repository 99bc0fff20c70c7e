//! What happens to a packet: the bodies of Margay's TC programs.
//!
//! In: a packet at a hook, and the maps that userspace fills. Out: what the kernel is to do with the packet, and
//! counts. Never: a decision that is not in the maps, a loop, a packet let through because something failed.
//!
//! One idea carries the whole crate: **the fast path handles the plain packet, the host's stack the rest**. A packet
//! with IP options, with a time to live that ends here, or too big for the overlay is left to the host's stack
//! unchanged, which has routes to the same places and answers with ICMP where the standards ask for it.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(not(target_arch = "bpf"), allow(dead_code, reason = "only the BPF target has hooks"))]

pub mod arp;
pub mod arrival;
pub mod count;
pub mod encap;
pub mod events;
pub mod flow;
pub mod head;
pub mod hooks;
pub mod ipv4;
pub mod judge;
pub mod lookup;
pub mod open;
pub mod packet;
pub mod reject;
pub mod rewrite;
pub mod sctp;
pub mod service;
pub mod tunnel;
pub mod tuple;
pub mod way;
pub mod words;
