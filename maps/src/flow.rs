//! `flows`, `fragments` and `clock`: connection tracking and forwarding in one table.
//!
//! A flow is both directions of one conversation. Its key has the lower end first, so that both directions find the
//! same entry; the half that a packet belongs to follows from which end sent it. The entry remembers the verdict, where
//! each half goes, and the generations of the state that both were reached from: a packet that meets an entry of older
//! generations is judged again, always in the direction in which the flow was opened.
//!
//! A flow that was opened through a Service has two entries: one between the opener and the Service's address, which
//! names the backend ([`FlowVerdict::Translated`]), and the flow proper, between the opener and that backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::{
    addr::{Addr, Mac},
    layout::MAX_SLOTS,
    policy::Id,
};

crate::contract! {
    /// The key of `flows`, which holds flows of IPv4: a packet's one look-up in a hash takes 33 ns with 16 bytes of key, and 60 with
    /// the 40 that an [`Addr`] for each end would make. The end that sorts lower, by address and then by port, comes first.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct FlowKey {
        /// The lower end's address, network byte order.
        pub low_v4: [u8; 4],
        /// The higher end's address, network byte order.
        pub high_v4: [u8; 4],
        /// The lower end's port, network byte order. ICMP echo: the identifier, at both ends. No ports: zero.
        pub low_port_be: [u8; 2],
        /// The higher end's port, likewise.
        pub high_port_be: [u8; 2],
        /// Protocol number (IANA).
        pub protocol: u8,
        /// Always zero.
        pub pad: [u8; 3],
    }
}

// === impl FlowKey ===

impl FlowKey {
    /// Of two IPv4 addresses in network byte order, the lower end first, and their ports in the same order, network byte order: all
    /// as words of memory, which the kernel side moves, see [`Addr::from_v4_word`]. Written in words of eight bytes, as the kernel
    /// compares keys: it would have to wait for what was written in smaller pieces.
    #[inline(always)]
    pub const fn from_v4_words(low: u32, high: u32, ports_be: u32, protocol: u8) -> Self {
        const fn pair(first: u32, second: u32) -> u64 {
            (u32::from_le(first) as u64 | (u32::from_le(second) as u64) << 32).to_le()
        }
        let words = [pair(low, high), pair(ports_be, (protocol as u32).to_le())];
        // SAFETY: two words and sixteen bytes are the same memory, and any bytes are a key.
        unsafe { core::mem::transmute::<[u64; 2], Self>(words) }
    }

    /// The lower end's address.
    #[inline(always)]
    pub const fn low(&self) -> Addr {
        Addr::from_v4(self.low_v4)
    }

    /// The higher end's address.
    #[inline(always)]
    pub const fn high(&self) -> Addr {
        Addr::from_v4(self.high_v4)
    }
}

crate::contract! {
    /// What was decided about a flow.
    #[repr(u8)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum FlowVerdict {
        /// Nothing yet.
        #[default]
        Unknown = 0,
        /// Both directions pass.
        Allowed = 1,
        /// The opener's egress policies do not allow it.
        EgressDenied = 2,
        /// The other end's ingress policies do not allow it.
        IngressDenied = 3,
        /// No flow, but the first step to one: the other end is a Service, and the backend that stands for it is in
        /// [`Flow::nat_v4`]. The flow itself is between the opener and the backend, and is judged like any other.
        Translated = 4,
    }
}

crate::contract! {
    /// How packets of one half go on.
    #[repr(u8)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum Way {
        /// To be found by the next packet.
        #[default]
        Unknown = 0,
        /// Up the host's stack: to the node itself, to the world, or to what the stack has translated.
        Host = 1,
        /// Into a pod of this node.
        Pod = 2,
        /// To another node, encapsulated.
        Node = 3,
    }
}

crate::contract! {
    /// One direction of a flow.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Half {
        /// How many packets.
        pub packets: u64,
        /// How many bytes, Ethernet header included.
        pub bytes: u64,
        /// Where its packets come in, or are expected: the `cali*` interface of the pod that sends, or [`Half::OVERLAY`]. A packet from
        /// elsewhere has its source checked anew. 0: not seen yet, or from the host's stack.
        pub ifindex_in: u32,
        /// [`Way::Pod`]: the pod's interface. [`Way::Node`]: the uplink. 0 otherwise.
        pub ifindex: u32,
        /// When its last packet came, in seconds of `clock`.
        pub last_seen: u32,
        /// [`Way::Node`]: the node's address, the outer destination, network byte order. Of a half that comes in by the overlay: the
        /// node that sends it. Otherwise without meaning.
        pub node_v4: [u8; 4],
        /// [`Way::Pod`]: the pod's MAC. [`Way::Node`]: that of the node's overlay device. Zero otherwise.
        pub mac: Mac,
        /// TCP: all flags that its packets had, or-ed (RFC 9293, section 3.1, byte 13). 0 otherwise.
        pub tcp_flags: u8,
        /// How its packets go on.
        pub way: Way,
    }
}

// === impl Half ===

impl Half {
    /// `ifindex_in` of a half whose packets come from another node over the overlay.
    pub const OVERLAY: u32 = u32::MAX;
}

crate::contract! {
    /// Who has opened a flow; a set of bits.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Opener {
        /// The bits.
        pub bits: u8,
    }
}

// === impl Opener ===

impl Opener {
    /// The higher end; otherwise the lower one.
    pub const HIGH: u8 = 1 << 0;
    /// The host's stack here, on behalf of somebody else: it may have translated addresses, so the other half must climb it again.
    pub const VIA_STACK: u8 = 1 << 1;
    /// The host itself.
    pub const BY_HOST: u8 = 1 << 2;

    /// The end that opens with its packets' half, 0 or 1.
    #[inline(always)]
    pub const fn of_half(half: u32) -> Self {
        Self { bits: half as u8 & Self::HIGH }
    }

    /// Which half opened it: 0 or 1.
    #[inline(always)]
    pub const fn half(self) -> u32 {
        (self.bits & Self::HIGH) as u32
    }

    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.bits & bits == bits
    }
}

crate::contract! {
    /// The value of `flows`. With its key and what the kernel puts in front of it (48 bytes, `struct htab_elem` in
    /// kernel/bpf/hashtab.c) it fills three cache lines of 64 bytes: each line more is one more that a new flow waits for.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Flow {
        /// From the lower end to the higher, and back.
        pub halves: [Half; 2],
        /// The rules that allow it, for egress and ingress; [`Id::NONE`] where nothing isolates that direction.
        pub origins: [Id; 2],
        /// The generation of routes and endpoints ([`crate::Config`]) that the ways were found under. [`FlowVerdict::Translated`]:
        /// that of Services, under which the backend was chosen.
        pub generation: u32,
        /// When it was opened, in seconds of `clock`.
        pub opened: u32,
        /// The generations of the slots below that the verdict was reached under.
        pub slot_generations: [u32; 2],
        /// The slots in `enforcement` of the lower and the higher end; 0 where an end is no pod of this node.
        pub slots: [u16; 2],
        /// The neighbour on the uplink for the half whose way is [`Way::Node`], of which there is one at most, network byte order; see
        /// [`crate::Route::next_hop`]. Zero: the kernel looks it up.
        pub next_hop_v4: [u8; 4],
        /// [`FlowVerdict::Translated`]: the backend, network byte order. Otherwise the Service's address by which the opener knows the
        /// other end: what it is answered comes from there. Zero: nothing is translated.
        pub nat_v4: [u8; 4],
        /// The port that goes with `nat_v4`, network byte order.
        pub nat_port_be: [u8; 2],
        /// What was decided.
        pub verdict: FlowVerdict,
        /// Who opened it.
        pub opener: Opener,
    }
}

// === impl Flow ===

impl Flow {
    /// The half from the lower end to the higher (0), or back.
    #[inline(always)]
    pub const fn half(&self, half: u32) -> &Half {
        let [there, back] = &self.halves;
        if half == 0 { there } else { back }
    }

    /// Likewise.
    #[inline(always)]
    pub const fn half_mut(&mut self, half: u32) -> &mut Half {
        let [there, back] = &mut self.halves;
        if half == 0 { there } else { back }
    }
}

crate::contract! {
    /// The key of `fragments`: all fragments of one packet have it (RFC 791, section 3.2).
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct FragmentKey {
        /// Where from.
        pub src: Addr,
        /// Where to.
        pub dst: Addr,
        /// The packet's identification, network byte order; IPv6: the lower half of it.
        pub id_be: [u8; 2],
        /// Protocol number (IANA).
        pub protocol: u8,
        /// Always zero.
        pub pad: u8,
    }
}

crate::contract! {
    /// The value of `fragments`: what only the first fragment says.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Fragment {
        /// The source port, network byte order.
        pub src_port_be: [u8; 2],
        /// The destination port, network byte order.
        pub dst_port_be: [u8; 2],
    }
}

crate::contract! {
    /// The one value of `clock` (index 0). Userspace sets it each second, so that the programs need not ask for the time; while
    /// no agent runs it stands still, and nothing expires.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Clock {
        /// Seconds since the machine was booted (`CLOCK_BOOTTIME`).
        pub seconds: u32,
    }
}

const _: () = assert!(size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<Half>() == 40);
const _: () = assert!(size_of::<Opener>() == 1);
const _: () = assert!(size_of::<Flow>() == 128 && align_of::<Flow>() == 8);
const _: () = assert!(MAX_SLOTS <= 1 << 16);
const _: () = assert!(size_of::<FragmentKey>() == 36);
const _: () = assert!(size_of::<Fragment>() == 4);
