//! Packets made by hand, right ones and wrong ones. In: fields. Out: bytes. Never: a correction of what the caller
//! wants wrong.

use std::net::Ipv4Addr;

use margay_maps::Mac;

/// `ETH_P_IP` (include/uapi/linux/if_ether.h).
pub const ETH_IPV4: u16 = 0x0800;
/// `ETH_P_ARP`.
pub const ETH_ARP: u16 = 0x0806;
/// `ETH_P_8021Q`.
pub const ETH_VLAN: u16 = 0x8100;
/// `ETH_P_IPV6`.
pub const ETH_IPV6: u16 = 0x86dd;
/// IANA protocol numbers.
pub const ICMP: u8 = 1;
/// IANA protocol numbers.
pub const UDP: u8 = 17;

/// Bytes of an IPv4 header without options.
const IPV4_HEADER: usize = 20;

/// An Ethernet frame.
pub fn ethernet(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.bytes[..], &source.bytes, &ether_type.to_be_bytes(), payload].concat()
}

/// An IPv4 header and what it carries.
#[derive(Clone, Debug)]
pub struct Ipv4<'a> {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification, which fragments of one packet share.
    pub id: u16,
    /// Flags (3 bits) and offset in units of 8 bytes (13 bits).
    pub fragment: u16,
    /// Options; a multiple of 4 bytes, 40 at most.
    pub options: &'a [u8],
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The flag "more fragments" in [`Ipv4::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

// === impl Ipv4 ===

impl<'a> Ipv4<'a> {
    /// A packet with TTL 64 and nothing unusual.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &'a [u8]) -> Self {
        Self { source, destination, protocol, ttl: 64, id: 1, fragment: 0, options: &[], payload }
    }

    /// The bytes, with a right checksum and total length.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { source, destination, protocol, ttl, id, fragment, options, payload } = self;
        let header = IPV4_HEADER + options.len();
        let total = (header + payload.len()) as u16;
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(total.to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([*ttl, *protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(*options);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(*payload);
        packet
    }
}

/// A UDP datagram without a checksum, which IPv4 allows (RFC 768).
pub fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let header = [source_port, destination_port, length, 0].map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// An ICMP echo request.
pub fn echo_request(id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    icmp([8, 0], [id.to_be_bytes(), sequence.to_be_bytes()].concat().as_slice(), payload)
}

fn icmp(type_and_code: [u8; 2], rest: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut message = [&type_and_code[..], &[0, 0], rest, payload].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// What VXLAN carries: its header (RFC 7348, section 5) and the inner frame.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[0x08, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

/// An ARP request (RFC 826) with its Ethernet header.
pub fn arp_request(sender_mac: Mac, sender: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [&fixed[..], &sender_mac.bytes, &sender.octets(), &[0; 6], &wanted.octets()].concat();
    ethernet(Mac { bytes: [0xff; 6] }, sender_mac, ETH_ARP, &body)
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or_default()])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let a = Ipv4Addr::new(10, 0, 0, 1);
        let packet = Ipv4 { options: &[1, 1, 1, 0], ..Ipv4::new(a, a, UDP, &udp(1, 2, b"odd")) }.bytes();
        assert_eq!(packet[0], 0x46);
        assert_eq!(checksum(&packet[..24]), 0);
        assert_eq!(packet.len(), 24 + 8 + 3);
        assert_eq!(checksum(&echo_request(7, 1, b"odd")), 0);
    }
}
