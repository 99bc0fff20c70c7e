//! A packet at a TC hook, so wrapped that no reference into it outlives what moves its bytes: reading borrows the
//! packet, and every helper that may reallocate it (`pull`, `grow`, `shrink`) borrows it mutably.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_MASK, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_get_hash_recalc, bpf_skb_adjust_room, bpf_skb_load_bytes},
    programs::TcContext,
};
use margay_maps::{DropReason, Mac, protocol::SCTP};
use network_types::eth::EthHdr;

/// A packet, from its Ethernet header on.
pub struct Packet {
    ctx: TcContext,
}

// === impl Packet ===

impl Packet {
    /// The packet that the hook was called for.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    /// The context of the hook, for helpers.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.ctx.as_ptr().cast()
    }

    /// Where its linear part begins. Volatile: carried over from an earlier look, the compiler would extend it to 64 bits by
    /// an instruction of its own, and the verifier take it for a number.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (&raw const (*self.skb()).data).read_volatile() as usize }
    }

    /// Where its linear part ends. Volatile as [`Packet::data`].
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (&raw const (*self.skb()).data_end).read_volatile() as usize }
    }

    /// Its length in bytes, Ethernet header included.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        self.ctx.len()
    }

    /// The interface of the hook.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program; it lives as long as the call.
        unsafe { (*self.skb()).ifindex }
    }

    /// The interface that it came into the host by; 0 if the host itself has made it.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).ingress_ifindex }
    }

    /// Sets these bits of its mark, for whoever gets it next in the host's stack.
    #[inline(always)]
    pub fn mark(&mut self, bits: u32) {
        // SAFETY: as in `ifindex`; programs of this type may write the field.
        unsafe { (*self.skb()).mark |= bits }
    }

    /// Whether a VLAN tag has been taken off into the packet's metadata.
    #[inline(always)]
    pub fn has_vlan(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// Whether it is packets of SCTP, strung together (`GSO_BY_FRAGS`): kernels make no room in those, and take none.
    #[inline(always)]
    pub fn is_strung(&self, protocol: u8) -> bool {
        protocol == SCTP && self.gso_size() != 0
    }

    /// Bytes of payload of each segment, where the packet is yet to be cut (GSO); otherwise 0.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).gso_size }
    }

    /// A hash of the flow: the same for all packets of one.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { bpf_get_hash_recalc(self.skb()) }
    }

    /// Makes the first `len` bytes readable by [`Packet::at`], if the packet has so many.
    ///
    /// Header bytes mostly lie in the linear part already, and then this is two comparisons.
    #[inline(always)]
    pub fn pull(&mut self, len: usize) -> bool {
        if self.data() + len <= self.data_end() {
            return true;
        }
        if (self.bytes() as usize) < len || self.ctx.pull_data(len as u32).is_err() {
            return false;
        }
        self.data() + len <= self.data_end()
    }

    /// The header at `offset`, if it lies in the linear part.
    #[inline(always)]
    pub fn at<T: Header>(&self, offset: usize) -> Option<&T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        // SAFETY: the bytes lie within the packet, as has just been compared (and the verifier insists); any bytes
        // are a `Header`, whose alignment the supported machines do not need; `self` is borrowed as long.
        Some(unsafe { &*(start as *const T) })
    }

    /// The header at `offset`, for writing. The kernel has made a private copy before the program started, because
    /// the program writes to packets at all (kernel/bpf/verifier.c, `gen_prologue`).
    #[inline(always)]
    pub fn at_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        // SAFETY: as in `at`; `self` is borrowed mutably, so there is no other reference.
        Some(unsafe { &mut *(start as *mut T) })
    }

    /// Two bytes at a place that is only known now, such as the ports behind IP options.
    #[inline(always)]
    pub fn be16_at(&self, offset: usize) -> Option<u16> {
        self.ctx.load::<[u8; 2]>(offset).ok().map(u16::from_be_bytes)
    }

    /// Copies bytes from a place that is only known now, such as the transport header behind IP options. Whether the packet
    /// has so many.
    #[inline(always)]
    pub fn copy<const N: usize>(&self, offset: usize, to: &mut [u8; N]) -> bool {
        // SAFETY: `to` is as long as the length given.
        unsafe { bpf_skb_load_bytes(self.skb().cast(), offset as u32, to.as_mut_ptr().cast(), N as u32) == 0 }
    }

    /// Makes room of 50 bytes for outer IPv4, UDP, VXLAN and inner Ethernet behind the Ethernet header, and tells
    /// the kernel what they are, so that it can cut big packets (GSO) behind them.
    ///
    /// `l2_eth`: the kernel knows the flag for an inner Ethernet header (5.12); without it older kernels do as well.
    #[inline(always)]
    pub fn grow(&mut self, by: u32, l2_eth: bool) -> Result<(), DropReason> {
        let inner_mac = ((EthHdr::LEN as u64) & BPF_ADJ_ROOM_ENCAP_L2_MASK as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        let mut flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
            // The pod's segments leave room for the header already: their size stays.
            | BPF_F_ADJ_ROOM_FIXED_GSO as u64
            | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64
            | inner_mac;
        if l2_eth {
            flags |= BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64;
        }
        self.adjust_room(by as i32, flags).map_err(|_refused| DropReason::EncapFailed)
    }

    /// Takes `by` bytes away behind the Ethernet header.
    #[inline(always)]
    pub fn shrink(&mut self, by: u32) -> Result<(), DropReason> {
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;
        self.adjust_room(-(by as i32), flags).map_err(|_refused| DropReason::DecapFailed)
    }

    #[inline(always)]
    fn adjust_room(&mut self, by: i32, flags: u64) -> Result<(), i64> {
        // SAFETY: as in `ifindex`.
        let done = unsafe { bpf_skb_adjust_room(self.skb(), by, BPF_ADJ_ROOM_MAC, flags) };
        if done == 0 { Ok(()) } else { Err(done) }
    }
}

/// Puts a MAC into a frame. In words: the compiler would call a loop over bytes.
#[inline(always)]
pub fn put_mac(to: &mut [u8; 6], mac: &Mac) {
    let (to, from) = (to.as_mut_ptr(), mac.bytes.as_ptr());
    // SAFETY: four bytes and two, of the six that both have; no alignment is asked for.
    unsafe {
        to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned());
        to.add(4).cast::<u16>().write_unaligned(from.add(4).cast::<u16>().read_unaligned());
    }
}

/// Whatever may be laid over packet bytes: any bytes are a value of it.
///
/// # Safety
/// Every bit pattern must be valid, and there must be no padding.
pub unsafe trait Header: Copy {}

// SAFETY: byte arrays and plain integers throughout, without padding (their sizes are those of the RFCs).
unsafe impl Header for EthHdr {}
// SAFETY: as above.
unsafe impl Header for network_types::ip::Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for network_types::arp::ArpHdr {}
// SAFETY: as above.
unsafe impl Header for network_types::udp::UdpHdr {}
// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}
// SAFETY: as above; see its definition, which asserts the size.
unsafe impl Header for crate::encap::Outer {}
// SAFETY: likewise.
unsafe impl Header for crate::encap::Encapsulated {}
// SAFETY: likewise.
unsafe impl Header for crate::ipv4::Frame {}
// SAFETY: likewise.
unsafe impl Header for crate::head::Head {}

const _: () = assert!(EthHdr::LEN == 14 && network_types::ip::Ipv4Hdr::LEN == 20);
const _: () = assert!(network_types::arp::ArpHdr::LEN == 28 && network_types::udp::UdpHdr::LEN == 8);
