//! What readdressing makes of a packet.
//!
//! In: a packet, and between whom it is to be. Out: the packet as it must come out, its checksums changed by as much as their content
//! was: one that was right is right, and one that was wrong is as wrong as before. Never: a packet that is cut short.

use std::net::Ipv4Addr;

use super::{model::End, mutate::GATEWAY};
use crate::golden::packet::crc32c;

/// What a packet must become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Why.
    pub kind: Kind,
    /// Between whom it is as it comes: its sender and its receiver, in its flow.
    pub was: (End, End),
    /// Between whom it is to be.
    pub to: (End, End),
    /// It is an ICMP error, about a packet of this protocol that went the other way.
    pub about: Option<u8>,
}

/// Why a packet is readdressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is for a Service, and goes to a backend: wherever that is.
    Question,
    /// It answers one, and comes from the Service once it reaches the pod.
    Answer,
}

/// What sort of packet was readdressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sort {
    /// Why.
    pub kind: Kind,
    /// It was an ICMP error.
    pub error: bool,
    /// It was from a pod to itself.
    pub hairpin: bool,
}

// === impl Change ===

impl Change {
    /// What sort of packet this is.
    pub fn sort(&self) -> Sort {
        let hairpin = [self.was.0.ip, self.was.1.ip, self.to.0.ip, self.to.1.ip].contains(&GATEWAY);
        Sort { kind: self.kind, error: self.about.is_some(), hairpin }
    }

    /// The frame as it must be, whose IPv4 header is at `at`; `None` if its checksum is not all there.
    pub fn apply(&self, frame: &[u8], at: usize) -> Option<Vec<u8>> {
        let mut packet = Edit { bytes: frame.to_vec() };
        let header = usize::from(frame[at] & 0x0f) * 4;
        let transport = at + header;
        let (from, to) = self.to;
        let outer = (address(frame, at + 12), address(frame, at + 16));
        if let Some(protocol) = self.about {
            let inner = transport + 8;
            packet.address(inner, 12, self.was.1.ip, to.ip)?;
            packet.address(inner, 16, self.was.0.ip, from.ip)?;
            if [6, 17, 132].contains(&protocol) {
                let before = ports(self.was.1, self.was.0);
                packet.sum(transport + 2, before, ports(to, from))?;
                packet.write(inner + 20, ports(to, from))?;
            }
            let src = if outer.0 == self.was.0.ip { from.ip } else { outer.0 };
            packet.address(at, 12, outer.0, src)?;
            packet.address(at, 16, outer.1, to.ip)?;
            return Some(packet.bytes);
        }
        let is_later = u16::from_be_bytes([frame[at + 6], frame[at + 7]]) & 0x1fff != 0;
        if !is_later {
            let (before, after) = (ports(self.was.0, self.was.1), ports(from, to));
            let sum = match frame[at + 9] {
                6 => Some(transport + 16),
                17 => Some(transport + 6),
                _ => None,
            };
            // A UDP packet without a checksum stays without one.
            let sum = match sum {
                Some(sum) if frame[at + 9] == 17 && frame.get(sum..sum + 2)? == [0, 0] => None,
                other => other,
            };
            if let Some(sum) = sum {
                packet.sum(sum, outer.0.octets(), from.ip.octets())?;
                packet.sum(sum, outer.1.octets(), to.ip.octets())?;
                packet.sum(sum, before, after)?;
                if frame[at + 9] == 17 && packet.bytes[sum..sum + 2] == [0, 0] {
                    packet.bytes[sum..sum + 2].fill(0xff);
                }
            }
            if frame[at + 9] == 132 {
                packet.crc(
                    transport,
                    usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]])) - header,
                    after,
                )?;
            }
            packet.write(transport, after)?;
        }
        packet.address(at, 12, outer.0, from.ip)?;
        packet.address(at, 16, outer.1, to.ip)?;
        Some(packet.bytes)
    }
}

fn ports(from: End, to: End) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.port.to_be_bytes(), to.port.to_be_bytes());
    [a, b, c, d]
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// A packet that is being changed.
struct Edit {
    bytes: Vec<u8>,
}

// === impl Edit ===

impl Edit {
    fn write(&mut self, at: usize, bytes: [u8; 4]) -> Option<()> {
        self.bytes.get_mut(at..at + 4)?.copy_from_slice(&bytes);
        Some(())
    }

    /// An address of the header at `header`, and that header's checksum.
    fn address(&mut self, header: usize, at: usize, before: Ipv4Addr, after: Ipv4Addr) -> Option<()> {
        self.sum(header + 10, before.octets(), after.octets())?;
        self.write(header + at, after.octets())
    }

    /// A checksum, when four bytes of what it is about have changed (RFC 1624, equation 3).
    fn sum(&mut self, at: usize, before: [u8; 4], after: [u8; 4]) -> Option<()> {
        let sum = self.bytes.get_mut(at..at + 2)?;
        if before == after {
            return Some(());
        }
        let words = |[a, b, c, d]: [u8; 4]| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        let mut total = u64::from(!u16::from_be_bytes([sum[0], sum[1]]));
        total += words(before).iter().map(|word| u64::from(!word)).sum::<u64>();
        total += words(after).iter().map(|word| u64::from(*word)).sum::<u64>();
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        sum.copy_from_slice(&(!(total as u16)).to_be_bytes());
        Some(())
    }

    /// SCTP's checksum, over `length` bytes from `at` on, when the ports become `after`: it is off by as much as before. A CRC is linear,
    /// so what else is in the message does not count.
    fn crc(&mut self, at: usize, length: usize, after: [u8; 4]) -> Option<()> {
        let ports: [u8; 4] = self.bytes.get(at..at + 4)?.try_into().ok()?;
        let stored: [u8; 4] = self.bytes.get(at + 8..at + 12)?.try_into().ok()?;
        // A device is yet to compute it.
        if stored == [0; 4] {
            return Some(());
        }
        let message = |ports: [u8; 4]| {
            let mut message = ports.to_vec();
            message.resize(4 + (length.wrapping_sub(4) & 0xffff), 0);
            crc32c(&message)
        };
        let sum = u32::from_le_bytes(stored) ^ message(ports) ^ message(after);
        self.write(at + 8, sum.to_le_bytes())
    }
}
