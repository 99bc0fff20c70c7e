//! A frame's headers: nearly always those of IPv4 without options, in one piece, with TCP or UDP inside, which are read at one
//! glance; otherwise one by one.
//!
//! In: a packet. Out: what its headers say, or the reason to drop it. Never: a change to the packet.

use margay_maps::{
    DropReason,
    protocol::{TCP, UDP},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{
    ipv4::{ETHER_IPV4, Ipv4, Payload, ethernet},
    packet::Packet,
};

/// What nearly every frame begins with. UDP has its ports where TCP has them.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Head {
    eth: EthHdr,
    ip: Ipv4Hdr,
    ports: [u8; 4],
    /// TCP: sequence numbers and data offset (RFC 9293, section 3.1). UDP: whatever it is.
    rest: [u8; 9],
    tcp_flags: u8,
}

const _: () = assert!(size_of::<Head>() == EthHdr::LEN + Ipv4Hdr::LEN + 14);

/// What counts of a TCP or UDP header.
#[derive(Clone, Copy)]
pub struct Transport {
    /// The ports, source and destination, as a word of memory.
    pub ports: u32,
    /// TCP flags; otherwise 0.
    pub tcp_flags: u8,
}

/// An IPv4 packet's headers.
pub struct Headers {
    /// Its IPv4 header.
    pub ip: Ipv4,
    /// What it carries, if that could be read at one glance.
    pub transport: Option<Transport>,
}

/// The headers of the frame; none of ARP.
#[inline(always)]
pub fn read(packet: &mut Packet) -> Result<Option<Headers>, DropReason> {
    if let Some(headers) = glance(packet, 0).filter(|_| !packet.has_vlan()) {
        return Ok(Some(headers));
    }
    match ethernet(packet)? {
        Payload::Arp => Ok(None),
        Payload::Ipv4 => behind(packet, 0).map(Some),
    }
}

/// The headers of the frame that begins at `eth`, within another, and is known to carry IPv4.
#[inline(always)]
pub fn read_inner(packet: &mut Packet, eth: usize) -> Result<Headers, DropReason> {
    match glance(packet, eth) {
        Some(headers) => Ok(headers),
        None => behind(packet, eth),
    }
}

#[inline(always)]
fn behind(packet: &mut Packet, eth: usize) -> Result<Headers, DropReason> {
    Ok(Headers { ip: Ipv4::parse(packet, eth + EthHdr::LEN)?, transport: None })
}

/// The headers, if all of them lie in the packet's linear part and hold together.
#[inline(always)]
fn glance(packet: &Packet, eth: usize) -> Option<Headers> {
    let head = packet.at::<Head>(eth)?;
    if head.eth.ether_type != ETHER_IPV4 || head.ip.vihl != 0x45 {
        return None;
    }
    let ip = Ipv4::of(&head.ip);
    let tcp_flags = match ip.proto {
        TCP => head.tcp_flags,
        UDP => 0,
        _ => return None,
    };
    if ip.is_fragment() || ip.check(packet, eth + EthHdr::LEN).is_err() {
        return None;
    }
    Some(Headers { ip, transport: Some(Transport { ports: u32::from_ne_bytes(head.ports), tcp_flags }) })
}
