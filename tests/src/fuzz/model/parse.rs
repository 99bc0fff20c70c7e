//! Reading packets, as RFC 791, 792, 768, 9293, 9260 and 7348 have them.
//!
//! In: bytes. Out: what they say, or that nothing can be made of them. Never: a byte past the packet's end.

use std::net::Ipv4Addr;

use margay_maps::{Hook, overlay};

use crate::golden::world::{NODE, OVERLAY_MAC};

/// Where the IPv4 header of a frame begins.
pub const PLAIN: usize = 14;
/// Where that of a packet in VXLAN does.
pub const INNER: usize = 64;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Ipv4,
    Arp,
    Other,
}

/// An IPv4 header that holds together.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub header: usize,
    pub id: u16,
    /// In units of 8 bytes.
    pub offset: u16,
    pub more: bool,
    pub ttl: u8,
}

/// What a transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Ports, whether it begins a conversation, and TCP's flags.
    Ports { src: u16, dst: u16, opens: bool, flags: u8 },
    /// No ports, but a place in the flow table all the same.
    None,
    /// An ICMP error about a packet of this sender, receiver, protocol and ports.
    Error(About),
    /// An ICMP error that says nothing of use.
    BadError,
}

/// The packet that an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    pub src: (Ipv4Addr, u16),
    pub dst: (Ipv4Addr, u16),
    pub protocol: u8,
}

pub fn frame(packet: &[u8]) -> Frame {
    match packet[12..14] {
        [0x08, 0x00] => Frame::Ipv4,
        [0x08, 0x06] => Frame::Arp,
        _ => Frame::Other,
    }
}

fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(bytes.into())
}

/// The header at `at`.
pub fn ip(packet: &[u8], at: usize) -> Option<Ip> {
    let fixed = packet.get(at..at + 20)?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(be16(packet, at + 2)?);
    if fixed[0] >> 4 != 4 || header < 20 || total < header || total > packet.len() - at {
        return None;
    }
    let fragment = be16(packet, at + 6)?;
    Some(Ip {
        src: address(packet, at + 12)?,
        dst: address(packet, at + 16)?,
        protocol: fixed[9],
        header,
        id: be16(packet, at + 4)?,
        offset: fragment & 0x1fff,
        more: fragment & 0x2000 != 0,
        ttl: fixed[8],
    })
}

/// The transport header behind it; `None`: it is cut short.
pub fn transport(packet: &[u8], at: usize, ip: &Ip) -> Option<Transport> {
    let at = at + ip.header;
    let has = |length: usize| packet.len() >= at + length;
    let ports =
        |opens, flags| Some(Transport::Ports { src: be16(packet, at)?, dst: be16(packet, at + 2)?, opens, flags });
    match ip.protocol {
        6 => {
            let flags = *packet.get(at + 13)?;
            ports(flags & 0x12 == 0x02, flags)
        }
        17 => ports(false, 0).filter(|_| has(4)),
        132 => ports(*packet.get(at + 12)? == 1, 0),
        1 if !has(6) => None,
        1 => Some(icmp(packet, at, ip)),
        _ => Some(Transport::None),
    }
}

fn icmp(packet: &[u8], at: usize, ip: &Ip) -> Transport {
    let id = be16(packet, at + 4).unwrap_or_default();
    match packet[at] {
        8 => Transport::Ports { src: id, dst: id, opens: true, flags: 0 },
        0 => Transport::Ports { src: id, dst: id, opens: false, flags: 0 },
        3 | 11 | 12 => {
            about(packet, at + 8).filter(|about| about.src.0 == ip.dst).map_or(Transport::BadError, Transport::Error)
        }
        _ => Transport::None,
    }
}

/// A header without options and 8 bytes.
fn about(packet: &[u8], at: usize) -> Option<About> {
    let inner = packet.get(at..at + 28)?;
    let (src, dst, protocol) = (address(inner, 12)?, address(inner, 16)?, inner[9]);
    let ports = match protocol {
        6 | 17 | 132 => (be16(inner, 20)?, be16(inner, 22)?),
        1 => (be16(inner, 24)?, be16(inner, 24)?),
        _ => (0, 0),
    };
    (inner[0] == 0x45).then_some(About { src: (src, ports.0), dst: (dst, ports.1), protocol })
}

/// The sender of an overlay packet to this node that can be taken apart here.
pub fn vxlan(packet: &[u8]) -> Option<Ipv4Addr> {
    let [_, a, b, c] = overlay::VNI.to_be_bytes();
    let header = packet.get(..INNER)?;
    let ours = frame(packet) == Frame::Ipv4
        && header[14] == 0x45
        && header[23] == 17
        && be16(packet, 20)? & 0x3fff == 0
        && be16(packet, 36)? == overlay::PORT
        && address(packet, 30)? == NODE
        && header[42] & 0x08 != 0
        && header[46..49] == [a, b, c];
    let plain = header[50..56] == OVERLAY_MAC.bytes && header[62..64] == [0x08, 0x00] && header[15] & 3 != 3;
    (ours && plain).then(|| address(packet, 26)).flatten()
}

/// Where the packet that a program judges begins.
pub fn start(hook: Hook) -> usize {
    if hook == Hook::FromUplink { INNER } else { PLAIN }
}
