//! IPv4: what a header says, whether it holds together, and the step that every router takes.

use margay_maps::{Addr, DropReason};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::packet::Packet;

/// Ethernet types in network byte order, as they stand in a frame (IEEE 802 numbers).
pub const ETHER_IPV4: u16 = 0x0800_u16.to_be();
/// IPv6.
pub const ETHER_IPV6: u16 = 0x86dd_u16.to_be();
/// ARP.
pub const ETHER_ARP: u16 = 0x0806_u16.to_be();
/// A VLAN tag, 802.1Q.
pub const ETHER_VLAN: u16 = 0x8100_u16.to_be();
/// A service provider's VLAN tag, 802.1ad.
pub const ETHER_QINQ: u16 = 0x88a8_u16.to_be();

/// The time to live at which a router must not forward a packet any more (RFC 1812, section 5.3.1).
const LAST_TTL: u8 = 1;

/// What a header says, copied out of the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// Where from, network byte order.
    pub src: [u8; 4],
    /// Where to, network byte order.
    pub dst: [u8; 4],
    /// Bytes of the header, options included: 20 to 60.
    pub header_len: u32,
    /// Bytes of the packet as the header gives them.
    pub total_len: u32,
    /// Time to live.
    pub ttl: u8,
    /// The protocol inside.
    pub proto: u8,
    /// Type of service: DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// Flags and fragment offset.
    pub frags: u16,
    /// Identification, network byte order.
    pub id_be: [u8; 2],
}

/// The headers of a frame that carries IPv4.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Frame {
    /// Ethernet.
    pub eth: EthHdr,
    /// IPv4.
    pub ip: Ipv4Hdr,
}

// === impl Ipv4 ===

impl Ipv4 {
    /// What the header says.
    #[inline(always)]
    pub fn of(header: &Ipv4Hdr) -> Self {
        Self {
            src: header.src_addr,
            dst: header.dst_addr,
            header_len: ((header.vihl & 0x0f) as u32) * 4,
            total_len: u16::from_be_bytes(header.tot_len) as u32,
            ttl: header.ttl,
            proto: header.proto,
            tos: header.tos,
            frags: u16::from_be_bytes(header.frags),
            id_be: header.id,
        }
    }

    /// Reads and checks the header at `offset`.
    #[inline(always)]
    pub fn parse(packet: &mut Packet, offset: usize) -> Result<Self, DropReason> {
        if !packet.pull(offset + Ipv4Hdr::LEN) {
            return Err(DropReason::TruncatedIp);
        }
        let Some(header) = packet.at::<Ipv4Hdr>(offset) else { return Err(DropReason::TruncatedIp) };
        let parsed = Self::of(header);
        if header.vihl >> 4 != 4 {
            return Err(DropReason::MalformedIp);
        }
        parsed.check(packet, offset)?;
        Ok(parsed)
    }

    /// Whether the lengths hold together, and with the packet's own.
    #[inline(always)]
    pub fn check(&self, packet: &Packet, offset: usize) -> Result<(), DropReason> {
        if self.header_len < Ipv4Hdr::LEN as u32 || self.total_len < self.header_len {
            return Err(DropReason::MalformedIp);
        }
        let present = packet.bytes() - offset as u32;
        // A packet that is yet to be cut may be longer than its header can say.
        if self.total_len > present && packet.gso_size() == 0 {
            return Err(DropReason::ShortIp);
        }
        Ok(())
    }

    /// Whether the fast path may forward it: no options, and it lives on after one more hop. Anything else is for
    /// the host's stack, which knows what to answer.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.header_len == Ipv4Hdr::LEN as u32 && self.ttl > LAST_TTL
    }

    /// Whether it is a fragment other than the first, which has no ports.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.frags & 0x1fff != 0
    }

    /// Whether it is a fragment at all.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        // The offset, or the flag "more fragments".
        self.frags & 0x3fff != 0
    }

    /// Takes one from the time to live at `offset`, as [`Ipv4::step`] does.
    #[inline(always)]
    pub fn decrement_ttl(packet: &mut Packet, offset: usize) -> Result<(), DropReason> {
        let Some(header) = packet.at_mut::<Ipv4Hdr>(offset) else { return Err(DropReason::RewriteFailed) };
        Self::step(header);
        Ok(())
    }

    /// Takes one from the time to live and mends the checksum (RFC 1141). Call it only for packets that are [`Ipv4::is_plain`].
    #[inline(always)]
    pub fn step(header: &mut Ipv4Hdr) {
        header.ttl = header.ttl.wrapping_sub(1);
        // The time to live is the upper byte of its word; the sum is kept as a complement.
        let sum = u16::from_be_bytes(header.check) as u32 + 0x0100;
        header.check = ((sum + (sum >= 0xffff) as u32) as u16).to_be_bytes();
    }
}

/// Whether a router may forward to this address: not multicast, reserved or broadcast (224.0.0.0/3), not loopback
/// (127.0.0.0/8), not "this network" (0.0.0.0/8): RFC 1812, section 5.3.7.
#[inline(always)]
pub fn is_forwardable(dst: &Addr) -> bool {
    let first = dst.bytes[12];
    first < 224 && first != 127 && first != 0
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// IPv4.
    Ipv4,
    /// ARP.
    Arp,
}

/// Reads the Ethernet header: what is in the frame, if it is something we know.
#[inline(always)]
pub fn ethernet(packet: &mut Packet) -> Result<Payload, DropReason> {
    if packet.has_vlan() {
        return Err(DropReason::VlanTagged);
    }
    if !packet.pull(EthHdr::LEN) {
        return Err(DropReason::TruncatedEthernet);
    }
    let Some(eth) = packet.at::<EthHdr>(0) else { return Err(DropReason::TruncatedEthernet) };
    match eth.ether_type {
        ETHER_IPV4 => Ok(Payload::Ipv4),
        ETHER_ARP => Ok(Payload::Arp),
        ETHER_IPV6 => Err(DropReason::Ipv6NotSupported),
        ETHER_VLAN | ETHER_QINQ => Err(DropReason::VlanTagged),
        _ => Err(DropReason::UnknownEtherType),
    }
}
