//! `routes`: which node has which addresses.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::addr::{Addr, Mac};

crate::contract! {
    /// What to do with a packet to a prefix.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum RouteKind {
        /// A block of this node: an address in it that is in no `endpoints` entry belongs to nobody.
        #[default]
        Local = 0,
        /// Addresses behind another node: encapsulate and send to it.
        Remote = 1,
    }
}

crate::contract! {
    /// The value of `routes`; its key is a prefix ([`crate::PrefixKey`]).
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Route {
        /// What to do.
        pub kind: RouteKind,
        /// [`RouteKind::Remote`]: the uplink that leads to the node. 0 otherwise.
        pub ifindex: u32,
        /// [`RouteKind::Remote`]: the node's address, the outer destination. Unspecified otherwise.
        pub node: Addr,
        /// [`RouteKind::Remote`]: the neighbour on the uplink that packets to the node are handed to: the node itself, or
        /// the gateway to it. Unspecified: the kernel looks it up for each packet. Unspecified otherwise.
        pub next_hop: Addr,
        /// [`RouteKind::Remote`]: the MAC of that node's overlay device, the inner destination MAC. Zero otherwise.
        pub mac: Mac,
        /// Always zero.
        pub pad: [u8; 2],
    }
}

const _: () = assert!(size_of::<Route>() == 48);
// The value of an LPM trie stands behind the key's 16 bytes (kernel/bpf/lpm_trie.c).
const _: () = assert!(align_of::<Route>() <= 4);
