//! `endpoints`: who on this node has an address.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::addr::Mac;

crate::contract! {
    /// What stands behind an address of this node.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum EndpointKind {
        /// The node itself: its own address, or the one of its overlay device. Such packets climb the host's stack.
        #[default]
        Host = 0,
        /// A pod with an interface of its own.
        Workload = 1,
    }
}

crate::contract! {
    /// The value of `endpoints`; its key is the address ([`crate::Addr`]).
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Endpoint {
        /// Pod or host.
        pub kind: EndpointKind,
        /// The host's side of the pod's veth pair, 0 for [`EndpointKind::Host`]. A packet that comes in by another
        /// interface with this source address is spoofed.
        pub ifindex: u32,
        /// The MAC of the pod's side. Zero: not known (yet), the host's stack delivers instead and asks by ARP.
        pub mac: Mac,
        /// Always zero.
        pub pad: [u8; 2],
        /// The pod's slot in `enforcement`; 0 for [`EndpointKind::Host`].
        pub slot: u32,
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether it is the pod behind the interface.
    #[inline(always)]
    pub const fn is_behind(&self, ifindex: u32) -> bool {
        matches!(self.kind, EndpointKind::Workload) && self.ifindex == ifindex
    }
}

const _: () = assert!(size_of::<Endpoint>() == 20);
