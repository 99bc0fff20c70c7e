//! Packets for the cases. Built by etherparse, which shares no code with the programs; damage is done by hand.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use margay_maps::{Mac, overlay};

use super::world::{OVERLAY_MAC, POD, POD_MAC};

/// Where fields stand in a frame with a plain IPv4 header.
pub const ETHER_TYPE: usize = 12;
/// The IPv4 header.
pub const IP: usize = 14;
/// What encapsulation adds.
pub const OVERHEAD: usize = overlay::OVERHEAD_V4 as usize;

/// A UDP packet from [`POD`], of 32 bytes payload, with a time to live of 64.
pub fn udp_to(dst: Ipv4Addr) -> Vec<u8> {
    udp(POD, dst, 64, 53, 32)
}

/// A UDP packet of a pod to the gateway's MAC.
pub fn udp(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8, dst_port: u16, payload: usize) -> Vec<u8> {
    framed(POD_MAC, Mac::GATEWAY, src, dst, ttl, 40_000, dst_port, &vec![0xab; payload])
}

/// A UDP packet of one pod to another, from this port.
pub fn udp_between(src: Ipv4Addr, dst: Ipv4Addr, src_port: u16) -> Vec<u8> {
    framed(POD_MAC, Mac::GATEWAY, src, dst, 64, src_port, 8080, &[0xab; 32])
}

/// The same between any two MACs.
#[expect(clippy::too_many_arguments, reason = "a packet has that many fields, and each caller names them all")]
pub fn framed(
    from: Mac,
    to: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    src_port: u16,
    dst_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.bytes, to.bytes).ipv4(src.octets(), dst.octets(), ttl);
    let builder = builder.udp(src_port, dst_port);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).expect("a Vec takes any packet");
    packet
}

/// An inner packet in VXLAN from one machine to another, as the kernel's own device would send it.
pub fn vxlan(outer_src: Ipv4Addr, outer_dst: Ipv4Addr, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut payload = vec![0x08, 0, 0, 0, a, b, c, 0];
    payload.extend_from_slice(inner);
    let (from, to) = (Mac { bytes: [2, 1, 0, 0, 0, 2] }, Mac { bytes: [2, 1, 0, 0, 0, 1] });
    framed(from, to, outer_src, outer_dst, 64, 55_555, overlay::PORT, &payload)
}

/// An inner packet as another node's programs write it, to this node's overlay device.
pub fn inner(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8) -> Vec<u8> {
    framed(super::world::OTHER_OVERLAY_MAC, OVERLAY_MAC, src, dst, ttl, 40_000, 53, &[0xcd; 32])
}

/// An ARP packet (RFC 826) from a pod, to everybody.
pub fn arp(oper: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    packet.extend(POD_MAC.bytes);
    packet.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    packet.extend(oper.to_be_bytes());
    packet.extend(POD_MAC.bytes);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

/// The packet with some bytes replaced, and the IPv4 header's checksum mended.
pub fn with(mut packet: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    mend_checksum(&mut packet, IP);
    packet
}

/// The packet, cut to `len` bytes.
pub fn cut(mut packet: Vec<u8>, len: usize) -> Vec<u8> {
    packet.truncate(len);
    packet
}

/// The packet with `options` (a multiple of four bytes) in its IPv4 header.
pub fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut longer = packet[..IP + 20].to_vec();
    longer.extend_from_slice(options);
    longer.extend_from_slice(&packet[IP + 20..]);
    let words = 5 + options.len() / 4;
    longer[IP] = 0x40 | words as u8;
    let total = (longer.len() - IP) as u16;
    longer[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    mend_checksum(&mut longer, IP);
    longer
}

fn mend_checksum(packet: &mut [u8], ip: usize) {
    let is_ipv4 = packet.get(ETHER_TYPE..IP) == Some(&[0x08, 0x00]);
    let header_len = packet.get(ip).map_or(0, |b| usize::from(b & 0x0f) * 4);
    if !is_ipv4 || header_len < 20 || packet.len() < ip + header_len {
        return;
    }
    packet[ip + 10..ip + 12].fill(0);
    let sum = checksum(&packet[ip..ip + header_len]);
    packet[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC-32C (RFC 9260, appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, step)
}
