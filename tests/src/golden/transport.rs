//! Packets of conversations: TCP, UDP, SCTP, ICMP and fragments between [`POD`] and others.
//!
//! In: who sends what to whom. Out: the frame as it reaches a program: from the pod, or from the other node in VXLAN. Never: a right TCP or
//! SCTP checksum, which no program looks at.

use std::net::Ipv4Addr;

use margay_maps::{Hook, Mac, overlay, protocol::SCTP};

use super::{
    packet::vxlan,
    world::{NODE, OTHER_NODE, OTHER_OVERLAY_MAC, OVERLAY_MAC, POD, POD_MAC},
};
use crate::probe::packet::{ETH_IPV4, Ipv4, checksum, ethernet, udp};

pub use margay_maps::protocol::{
    ICMP, TCP, UDP,
    tcp::{ACK, FIN, RST, SYN},
};

/// SCTP's chunks (RFC 9260, section 3.2).
pub const SCTP_DATA: u8 = 0;
/// Opens an association.
pub const SCTP_INIT: u8 = 1;
/// The answer to it.
pub const SCTP_INIT_ACK: u8 = 2;

/// An IPv4 packet in the making.
#[derive(Clone, Debug)]
pub struct Ip {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    payload: Vec<u8>,
    id: u16,
    fragment: u16,
}

/// A packet from one to the other with any content.
pub fn ip(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Ip {
    Ip { src, dst, protocol, payload, id: 1, fragment: 0 }
}

/// A TCP segment with these flags and 8 bytes of data.
pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Ip {
    let mut segment = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend([0xab; 8]);
    ip(src.0, dst.0, TCP, segment)
}

/// A datagram of 16 bytes.
pub fn datagram(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Ip {
    ip(src.0, dst.0, UDP, udp(src.1, dst.1, &[0xab; 16]))
}

/// An SCTP packet with one chunk.
pub fn sctp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), chunk: u8) -> Ip {
    let mut packet = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend([0; 16]);
    ip(src.0, dst.0, SCTP, packet)
}

/// An ICMP message: type and code, then what follows the checksum.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: [u8; 2], rest: &[u8]) -> Ip {
    let mut message = [&kind[..], &[0, 0], rest].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    ip(src, dst, ICMP, message)
}

/// An echo request (true) or reply with this identifier.
pub fn echo(src: Ipv4Addr, dst: Ipv4Addr, request: bool, id: u16) -> Ip {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, [if request { 8 } else { 0 }, 0], &[a, b, 0, 1, 0xab, 0xab, 0xab, 0xab])
}

/// Port unreachable (RFC 792), from `src` to the sender of `about`, with its header and `carried` bytes behind it.
pub fn unreachable(src: Ipv4Addr, about: &Ip, carried: usize) -> Ip {
    error(src, about, [3, 3], [0; 4], carried)
}

/// Fragmentation needed: 1400 bytes would fit (RFC 1191).
pub fn too_big(src: Ipv4Addr, about: &Ip) -> Ip {
    error(src, about, [3, 4], [0, 0, 0x05, 0x78], 8)
}

fn error(src: Ipv4Addr, about: &Ip, kind: [u8; 2], word: [u8; 4], carried: usize) -> Ip {
    let about_bytes = about.bytes();
    icmp(src, about.src, kind, &[&word[..], &about_bytes[..20 + carried]].concat())
}

// === impl Ip ===

impl Ip {
    /// The part of a datagram that begins at `offset` (bytes, a multiple of 8) and has `length` bytes, under this identification.
    pub fn part(&self, id: u16, offset: usize, length: usize) -> Self {
        let more = offset + length < self.payload.len();
        let fragment = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        Self { payload: self.payload[offset..offset + length].to_vec(), id, fragment, ..self.clone() }
    }

    /// The IPv4 packet.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { src, dst, protocol, payload, id, fragment } = self;
        Ipv4 { id: *id, fragment: *fragment, ..Ipv4::new(*src, *dst, *protocol, payload) }.bytes()
    }

    /// The frame, and the program that it reaches: the pod's own packets `from_workload`, the node's `to_workload`, all others come
    /// from the other node.
    pub fn frame(&self) -> (Hook, Vec<u8>) {
        if self.src == NODE {
            return (Hook::ToWorkload, ethernet(POD_MAC, Mac::GATEWAY, ETH_IPV4, &self.bytes()));
        }
        if self.dst != POD {
            return (Hook::FromWorkload, self.from_pod());
        }
        (Hook::FromUplink, self.from_node())
    }

    /// The frame as the other node sends it.
    pub fn from_node(&self) -> Vec<u8> {
        self.from_node_at(OTHER_NODE)
    }

    /// The same from any machine.
    pub fn from_node_at(&self, sender: Ipv4Addr) -> Vec<u8> {
        let inner = ethernet(OVERLAY_MAC, OTHER_OVERLAY_MAC, ETH_IPV4, &self.bytes());
        vxlan(sender, NODE, overlay::VNI, &inner)
    }

    /// The frame as the pod sends it, whatever its source address says.
    pub fn from_pod(&self) -> Vec<u8> {
        ethernet(Mac::GATEWAY, POD_MAC, ETH_IPV4, &self.bytes())
    }
}
