//! `config`: what the programs must know about their own node, in one slot.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, Mac};

crate::contract! {
    /// What this kernel can do and how packets are to be carried; a set of bits, host order.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Features {
        /// The bits.
        pub bits: u32,
    }
}

// === impl Features ===

impl Features {
    /// `from_workload` writes the VXLAN header itself; otherwise it hands the packet to the overlay device.
    pub const OWN_ENCAP: u32 = 1 << 0;
    /// `from_uplink` takes the VXLAN header off itself; otherwise the overlay device does.
    pub const OWN_DECAP: u32 = 1 << 1;
    /// The kernel knows `BPF_F_ADJ_ROOM_ENCAP_L2_ETH` (5.12).
    pub const ENCAP_L2_ETH: u32 = 1 << 2;

    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.bits & bits == bits
    }
}

crate::contract! {
    /// The one value of `config` (index 0).
    ///
    /// All zero until the agent has written it: the programs drop with [`crate::DropReason::NotConfigured`] what they
    /// would have to encapsulate before that.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Config {
        /// This node's own address: the outer source of what it encapsulates.
        pub node: Addr,
        /// The overlay device, `vxlan.calico`; 0 while there is none.
        pub overlay_ifindex: u32,
        /// The largest IP packet, in bytes, that fits into the overlay.
        pub overlay_mtu: u32,
        /// What to do by hand.
        pub features: Features,
        /// The VXLAN network identifier, 24 bits, host order. Calico's default: 4096.
        pub vni: u32,
        /// The UDP port of VXLAN, network byte order. Calico's default, and IANA's: 4789.
        pub port_be: [u8; 2],
        /// The MAC of this node's own overlay device: the inner source MAC.
        pub mac: Mac,
        /// Raised, in a write of its own, after endpoints, routes, nodes or anything above has changed: flows find their ways anew.
        pub generation: u32,
        /// Raised, in a write of its own, after `services` has changed: flows through Services look whether their backend is still one.
        pub service_generation: u32,
    }
}

/// How many entries `config` has.
pub const CONFIG_SLOTS: u32 = 1;

const _: () = assert!(size_of::<Config>() == 48);
