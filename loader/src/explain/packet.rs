//! The first packet of a flow, as whoever opens it would send it.
//!
//! Nothing reads checksums on the way: only the IPv4 header has one.

use std::net::Ipv4Addr;

use margay_maps::{
    Mac,
    protocol::{ICMP, SCTP, TCP, UDP, tcp::SYN},
};

/// Which flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Who opens it.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// The destination port; 0 where there is none.
    pub port: u16,
}

/// The source port, or the identifier of an echo: rules do not look at it.
pub const SOURCE_PORT: u16 = 49_152;

/// Bytes of an IPv4 header without options (RFC 791, section 3.1).
const IPV4_LEN: usize = 20;
/// The time to live that Linux gives (`IPDEFTTL`).
const TTL: u8 = 64;

// === impl Opening ===

impl Opening {
    /// The frame between two MACs.
    pub fn frame(&self, src: Mac, dst: Mac) -> Vec<u8> {
        framed(src, dst, &ipv4(self.from, self.to, self.protocol, &self.transport()))
    }

    /// Whether the protocol has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP)
    }

    fn transport(&self) -> Vec<u8> {
        let [a, b] = SOURCE_PORT.to_be_bytes();
        let [c, d] = self.port.to_be_bytes();
        match self.protocol {
            // RFC 9293, section 3.1: five words of header, one flag, some window.
            TCP => vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0],
            // RFC 768: eight bytes, and no checksum.
            UDP => vec![a, b, c, d, 0, 8, 0, 0],
            // RFC 9260, section 3.3.2: a chunk INIT of 20 bytes, with one stream each way.
            SCTP => {
                let mut bytes = vec![a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];
                bytes.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
                bytes
            }
            // RFC 792: an echo request.
            ICMP => vec![8, 0, 0, 0, a, b, 0, 1],
            _ => Vec::new(),
        }
    }
}

/// `inner` in VXLAN from one node to another.
pub fn vxlan(from: Ipv4Addr, to: Ipv4Addr, vni: u32, port: u16, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let [high, low] = port.to_be_bytes();
    let [source_high, source_low] = SOURCE_PORT.to_be_bytes();
    let [len_high, len_low] = ((inner.len() + 16) as u16).to_be_bytes();
    // RFC 7348, section 5: the flag of a valid network identifier.
    let mut payload = vec![source_high, source_low, high, low, len_high, len_low, 0, 0, 8, 0, 0, 0, a, b, c, 0];
    payload.extend_from_slice(inner);
    framed(Mac::GATEWAY, Mac::GATEWAY, &ipv4(from, to, UDP, &payload))
}

fn framed(src: Mac, dst: Mac, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(dst.bytes);
    frame.extend(src.bytes);
    frame.extend([0x08, 0x00]);
    frame.extend_from_slice(packet);
    frame
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = ((IPV4_LEN + payload.len()) as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0x40, 0, TTL, protocol, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// RFC 1071, of whole words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
