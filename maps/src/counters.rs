//! `traffic`: packets and bytes for each hook and what became of them. One slot per CPU, so counting needs no atomics.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

crate::contract! {
    /// The value of `traffic` and `drops`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Counter {
        /// How many packets; one that the kernel has merged (GRO) or not yet cut (GSO) counts once.
        pub packets: u64,
        /// How many bytes, Ethernet header included, as the packet was when it came to the hook.
        pub bytes: u64,
    }
}

crate::contract! {
    /// Where a program is attached. The name says the direction: `from_x` is what enters the host from x, `to_x` what
    /// leaves the host to x.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Hook {
        /// TC ingress of a `cali*` interface: a pod sends.
        FromWorkload = 0,
        /// TC egress of a `cali*` interface: the host's stack sends to a pod.
        ToWorkload = 1,
        /// TC ingress of the overlay device: the kernel has taken a VXLAN header off.
        FromOverlay = 2,
        /// TC egress of the overlay device: the host's stack sends to another node's pod.
        ToOverlay = 3,
        /// TC ingress of an uplink: another machine sends.
        FromUplink = 4,
    }
}

crate::contract! {
    /// What became of a packet at a hook.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Outcome {
        /// Passed on unchanged: to the host's stack (`from_*`), or out by the device (`to_*`).
        Passed = 0,
        /// Put straight into a pod of this node.
        Delivered = 1,
        /// Encapsulated and sent to another node.
        Encapsulated = 2,
        /// Answered by the program itself (ARP).
        Answered = 3,
        /// Dropped; `drops` says why.
        Dropped = 4,
    }
}

// === impl Hook ===

impl Hook {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::FromWorkload, Self::ToWorkload, Self::FromOverlay, Self::ToOverlay, Self::FromUplink];

    /// The name of the hook, which is the name of its program too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::FromOverlay => "from_overlay",
            Self::ToOverlay => "to_overlay",
            Self::FromUplink => "from_uplink",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Passed, Self::Delivered, Self::Encapsulated, Self::Answered, Self::Dropped];

    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Delivered => "delivered",
            Self::Encapsulated => "encapsulated",
            Self::Answered => "answered",
            Self::Dropped => "dropped",
        }
    }
}

/// How many entries `traffic` has.
pub const TRAFFIC_SLOTS: u32 = Hook::COUNT * Outcome::COUNT;

/// The index in `traffic` of a hook and an outcome.
#[inline(always)]
pub const fn traffic_slot(hook: Hook, outcome: Outcome) -> u32 {
    hook as u32 * Outcome::COUNT + outcome as u32
}

const _: () = assert!(size_of::<Counter>() == 16);
