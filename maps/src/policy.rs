//! Policy as data: `enforcement`, `identities`, `networks` and `rules`.
//!
//! A packet is judged once for each flow and generation. The endpoint's slot in `enforcement` names the policy of each
//! direction; the other side's address has an identity, from `identities` if it is a pod's that stands out, otherwise from
//! the longest prefix in `networks`; `rules` says whether the policy lets the identity through. Policies only allow, so
//! any rule that matches decides.
//!
//! Ids are hashes of what they stand for, so they mean the same before and after a restart, and one is never used for
//! anything else.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

crate::contract! {
    /// The id of a policy or of an identity: the first eight bytes of a SHA-1 over its content. All zero: none.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Id {
        /// The hash.
        pub bytes: [u8; 8],
    }
}

// === impl Id ===

impl Id {
    /// As a policy: the direction is not isolated, everything may pass. As an identity in a rule: whatever identity.
    /// As an identity of an address: none of the peers that policies of this node name.
    pub const NONE: Self = Self { bytes: [0; 8] };

    /// Whether this is [`Id::NONE`].
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        u64::from_ne_bytes(self.bytes) == 0
    }
}

crate::contract! {
    /// The value of `enforcement`; its key is an endpoint's slot ([`crate::Endpoint`]), host order. Slot 0 is nobody's.
    ///
    /// Userspace writes policies first and raises the generation in a write of its own afterwards; the programs read
    /// the generation first. So a verdict that is remembered under a generation was never reached under older policies.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Enforcement {
        /// Raised whenever a verdict about this endpoint could have changed. Flows remember it.
        pub generation: u32,
        /// What may come in; [`Id::NONE`]: everything.
        pub ingress: Id,
        /// What may go out; [`Id::NONE`]: everything.
        pub egress: Id,
    }
}

crate::contract! {
    /// The key of `rules`: a prefix over policy, identity, protocol and port. See [`RuleKey::ANY_PROTOCOL`] and its siblings
    /// for how much of it counts; a range of ports is several keys.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct RuleKey {
        /// How many leading bits of the rest count, host order.
        pub prefix_len: u32,
        /// The policy.
        pub policy: Id,
        /// The other side's identity; [`Id::NONE`]: whoever.
        pub identity: Id,
        /// Protocol number (IANA): 6 TCP, 17 UDP, 132 SCTP.
        pub protocol: u8,
        /// Always zero.
        pub pad: u8,
        /// The destination port, network byte order; bits past the prefix are zero.
        pub port_be: [u8; 2],
    }
}

// === impl RuleKey ===

impl RuleKey {
    /// `prefix_len` of a rule for every protocol and port: policy and identity.
    pub const ANY_PROTOCOL: u32 = 128;
    /// `prefix_len` of a rule for every port of one protocol.
    pub const ANY_PORT: u32 = 144;
    /// `prefix_len` of a rule for one port; between the two, one for a range of ports that is a power of two.
    pub const ONE_PORT: u32 = 160;
}

crate::contract! {
    /// The value of `rules`: allowed, and by whom.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Rule {
        /// The first NetworkPolicy's rule that allows this, as a hash of its name, direction and index.
        pub origin: Id,
    }
}

const _: () = assert!(size_of::<Id>() == 8 && align_of::<Id>() == 1);
const _: () = assert!(size_of::<Enforcement>() == 20);
const _: () = assert!(size_of::<RuleKey>() == 24);
// The value of an LPM trie stands behind the key's data (kernel/bpf/lpm_trie.c).
const _: () = assert!(size_of::<Rule>() == 8);
