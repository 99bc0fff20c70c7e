//! `events`, `readers` and `event_counts`: what the programs tell whoever watches, as it happens.
//!
//! Events are for people: nothing depends on one. A program writes one only while somebody reads, and never waits: what finds
//! no room, or comes too fast, is counted and lost.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::{
    addr::Addr,
    counters::Hook,
    drops::DropReason,
    flow::{FlowVerdict, Way},
    policy::Id,
};

crate::contract! {
    /// What has happened.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum EventKind {
        /// A packet was dropped.
        Drop = 1,
        /// A flow was opened, and may pass.
        Flow = 2,
    }
}

crate::contract! {
    /// One record of the ring buffer `events`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Event {
        /// When: nanoseconds since boot (`CLOCK_BOOTTIME`).
        pub time_ns: u64,
        /// What.
        pub kind: EventKind,
        /// Of a drop: the [`crate::DropReason`], by number. Otherwise 0.
        pub reason: u32,
        /// Of a drop: the [`crate::Hook`], by number. Otherwise 0.
        pub hook: u32,
        /// Of a drop: the interface of the hook. Of a flow: where its opener's packets come in, as [`crate::Half::ifindex_in`].
        pub ifindex: u32,
        /// Who sent the packet; unspecified where it does not say. Of an IPv4 ARP packet: the sender's address in it.
        pub src: Addr,
        /// To whom, likewise.
        pub dst: Addr,
        /// The sender's port, network byte order. ICMP echo: the identifier. 0 where there is none.
        pub src_port_be: [u8; 2],
        /// The receiver's port, likewise.
        pub dst_port_be: [u8; 2],
        /// Protocol number (IANA). 0 of what is no IP packet.
        pub protocol: u8,
        /// Always zero.
        pub pad: [u8; 3],
        /// Of a drop: the packet's length, Ethernet header included. Otherwise 0.
        pub bytes: u32,
        /// Of a flow, and of a drop that policies decided: the verdict.
        pub verdict: FlowVerdict,
        /// Of a flow: how its opener's packets go on.
        pub way: Way,
        /// Always zero.
        pub way_pad: [u8; 6],
        /// Of a flow: by which interface they go on, as [`crate::Half::ifindex`]. Otherwise 0.
        pub ifindex_out: u32,
        /// The rules that allow the flow, for egress and ingress, as [`crate::Flow::origins`] has them.
        pub origins: [Id; 2],
    }
}

// === impl Event ===

impl Event {
    /// From a record of the ring buffer; `None` if its bytes are no event.
    pub fn from_record(bytes: &[u8]) -> Option<Self> {
        Self::try_read_from_bytes(bytes).ok()
    }

    /// Why the packet was dropped; `None` where there was no drop, or for a reason of another build.
    pub fn drop_reason(&self) -> Option<DropReason> {
        DropReason::ALL.get(self.reason as usize).copied().filter(|_| self.kind == EventKind::Drop)
    }

    /// Where it was dropped, likewise.
    pub fn drop_hook(&self) -> Option<Hook> {
        Hook::ALL.get(self.hook as usize).copied().filter(|_| self.kind == EventKind::Drop)
    }
}

crate::contract! {
    /// The one value of `readers` (index 0).
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Readers {
        /// Until when somebody reads: nanoseconds since boot (`CLOCK_BOOTTIME`); 0: nobody does. The reader says it again and
        /// again, so that one that has died is forgotten.
        pub until_ns: u64,
    }
}

crate::contract! {
    /// The value of `event_counts` (index 0), on each CPU.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct EventCounts {
        /// The time in pieces of [`EventCounts::WINDOW_NS`]: the one that the next two are about.
        pub window: u64,
        /// How many drops were told of in it.
        pub drops: u32,
        /// How many flows.
        pub flows: u32,
        /// How many events were lost since boot because there were too many of their kind in one window.
        pub suppressed: u64,
        /// How many because the ring buffer had no room.
        pub no_room: u64,
    }
}

// === impl EventCounts ===

impl EventCounts {
    /// How long a window is, as a power of two.
    pub const WINDOW_SHIFT: u32 = 24;
    /// In nanoseconds: 17 ms.
    pub const WINDOW_NS: u64 = 1 << Self::WINDOW_SHIFT;
    /// How many drops a CPU tells of in one window: 7,600 a second. Whoever floods a pod does not flood its reader.
    pub const MAX_DROPS: u32 = 128;
    /// How many flows: 61,000 a second, more than a CPU opens.
    pub const MAX_FLOWS: u32 = 1_024;
}

const _: () = assert!(size_of::<Event>() == 96);
const _: () = assert!(size_of::<Readers>() == 8);
const _: () = assert!(size_of::<EventCounts>() == 32);
