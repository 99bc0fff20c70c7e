//! Addresses as keys: 16 bytes for both families, a prefix for longest-prefix matches, and the MAC.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

crate::contract! {
    /// An IP address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
    ///
    /// Four-byte aligned, so that the kernel side compares and copies words, and so that a prefix key of
    /// `u32` length and address has no padding.
    #[repr(C, align(4))]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Addr {
        /// The address, most significant byte first.
        pub bytes: [u8; 16],
    }
}

/// How many bits of an [`Addr`] stand before an embedded IPv4 address.
pub const V4_PREFIX_BITS: u32 = 96;

// === impl Addr ===

impl Addr {
    /// No address at all (`::`): an unset field.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };
    /// Every pod's gateway, as Calico has it. Towards a pod that has reached itself through a Service it stands for that pod: nobody
    /// takes packets from its own address off the wire.
    pub const GATEWAY: Self = Self::from_v4([169, 254, 1, 1]);

    /// From an IPv4 address in network byte order, as it stands in a packet.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(v4))
    }

    /// From an IPv4 address in network byte order, as a word of memory: the kernel side moves words, not bytes.
    #[inline(always)]
    pub const fn from_v4_word(v4: u32) -> Self {
        // SAFETY: four words and sixteen bytes are the same memory, and any bytes are an address.
        let bytes = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>([0, 0, 0x0000_ffff_u32.to_be(), v4]) };
        Self { bytes }
    }

    /// The embedded IPv4 address in network byte order. Meaningful only where [`Addr::is_v4`] holds.
    #[inline(always)]
    pub const fn v4(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// Whether an IPv4 address is embedded.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        // SAFETY: as in `from_v4_word`.
        let words = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.bytes) };
        words[0] | words[1] | (words[2] ^ 0x0000_ffff_u32.to_be()) == 0
    }
}

crate::contract! {
    /// The key of a longest-prefix match, laid out as the kernel wants it (`struct bpf_lpm_trie_key_u8`,
    /// include/uapi/linux/bpf.h): the length in bits, host order, then the address.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct PrefixKey {
        /// How many leading bits of `addr` count, 0 to 128; an IPv4 prefix has 96 more than usual.
        pub prefix_len: u32,
        /// The prefix; bits past `prefix_len` are zero.
        pub addr: Addr,
    }
}

crate::contract! {
    /// An Ethernet address.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Mac {
        /// The address, first byte on the wire first.
        pub bytes: [u8; 6],
    }
}

// === impl Mac ===

impl Mac {
    /// Not known.
    pub const ZERO: Self = Self { bytes: [0; 6] };

    /// What every `cali*` interface has and what every pod sends to, as Calico has it.
    pub const GATEWAY: Self = Self { bytes: [0xee; 6] };

    /// Whether this is an address at all.
    #[inline(always)]
    pub const fn is_zero(&self) -> bool {
        matches!(self.bytes, [0, 0, 0, 0, 0, 0])
    }
}

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 4);
const _: () = assert!(size_of::<PrefixKey>() == 20);
const _: () = assert!(size_of::<Mac>() == 6);
