//! ICMP echo. In: who asks whom, how often, with how much. Out: how many answers came, with which TTL and how fast. Never:
//! an answer whose content differs.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::{ANSWER, is_timeout, packet::echo_request, pattern::Pattern};
use crate::netns::Namespace;

/// What to ask. `Ping::to(address)` is one request with 56 bytes, as ping(8) sends.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    to: Ipv4Addr,
    size: usize,
    count: u16,
    patience: Duration,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests sent.
    pub sent: u16,
    /// Right answers received in time.
    pub received: u16,
    /// The TTL of the last answer as it arrived.
    pub ttl: u8,
    /// The time of the fastest answer.
    pub fastest: Option<Duration>,
}

// === impl Ping ===

impl Ping {
    /// One request with 56 bytes.
    pub fn to(address: Ipv4Addr) -> Self {
        Self { to: address, size: 56, count: 1, patience: ANSWER }
    }

    /// How many bytes each request carries, behind the ICMP header of 8.
    pub fn size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// How many requests, each sent when the one before is answered or given up.
    pub fn count(self, count: u16) -> Self {
        Self { count, ..self }
    }

    /// How long each answer may take.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks from inside `namespace`. No answer is no error: the report says how many came.
    ///
    /// # Errors
    /// A request cannot be sent (no route), or an answer has other content than the request.
    pub fn from(self, namespace: &Namespace) -> Result<Report> {
        let socket = raw_socket(namespace)?;
        let id = next_id();
        let mut report = Report::default();
        for sequence in 1..=self.count {
            let began = Instant::now();
            report.sent += 1;
            if let Some(ttl) = self.once(&socket, id, sequence)? {
                report.received += 1;
                report.ttl = ttl;
                let took = began.elapsed();
                report.fastest = Some(report.fastest.map_or(took, |f| f.min(took)));
            }
        }
        Ok(report)
    }

    fn once(&self, socket: &Socket, id: u16, sequence: u16) -> Result<Option<u8>> {
        let pattern = Pattern::new(self.size);
        let payload = pattern.at(u64::from(sequence), self.size);
        let to = SocketAddrV4::new(self.to, 0).into();
        socket
            .send_to(&echo_request(id, sequence, payload), &to)
            .with_context(|| format!("sending an ICMP echo request of {} bytes to {}", self.size, self.to))?;
        let deadline = Instant::now() + self.patience;
        while let Some(packet) = receive(socket, deadline)? {
            let Some(answer) = Answer::parse(&packet) else { continue };
            let is_ours = answer.is_reply && answer.from == self.to && (answer.id, answer.sequence) == (id, sequence);
            if is_ours && answer.payload != payload {
                bail!("{} answered the ICMP echo request of {} bytes with other content", self.to, self.size);
            }
            if is_ours {
                return Ok(Some(answer.ttl));
            }
        }
        Ok(None)
    }
}

/// Asks once with 56 bytes; an error if no answer comes. Returns the TTL of the answer.
///
/// # Errors
/// As [`Ping::from`], or there is no answer.
pub fn ping(namespace: &Namespace, to: Ipv4Addr) -> Result<u8> {
    let report = Ping::to(to).from(namespace)?;
    if report.received == 0 {
        bail!("no answer to ICMP echo from {to} in {}", namespace.name());
    }
    Ok(report.ttl)
}

/// An ICMP message that may be the answer to an echo request.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) from: Ipv4Addr,
    pub(super) ttl: u8,
    /// An echo reply; otherwise "time exceeded" or "unreachable", about a request of ours.
    pub(super) is_reply: bool,
    pub(super) id: u16,
    pub(super) sequence: u16,
    payload: &'a [u8],
}

// === impl Answer ===

impl<'a> Answer<'a> {
    /// Reads a packet as a raw socket delivers it, IPv4 header first.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (ttl, from, icmp) = split_ipv4(packet)?;
        // Types 3 (unreachable) and 11 (time exceeded) carry the packet that caused them (RFC 792).
        let (is_reply, about) = match icmp.first()? {
            0 => (true, icmp),
            3 | 11 => (false, split_ipv4(icmp.get(8..)?)?.2),
            _ => return None,
        };
        if !is_reply && *about.first()? != 8 {
            return None;
        }
        let number = |at: usize| Some(u16::from_be_bytes([*about.get(at)?, *about.get(at + 1)?]));
        Some(Self { from, ttl, is_reply, id: number(4)?, sequence: number(6)?, payload: icmp.get(8..)? })
    }
}

/// TTL, source, and what follows the header.
fn split_ipv4(packet: &[u8]) -> Option<(u8, Ipv4Addr, &[u8])> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some((*packet.get(8)?, source.into(), packet.get(header..)?))
}

/// A socket for ICMP of the namespace; it hears all ICMP that comes in there.
pub(super) fn raw_socket(namespace: &Namespace) -> Result<Socket> {
    namespace.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("opening an ICMP socket"))
}

/// The next packet before `deadline`.
pub(super) fn receive(mut socket: &Socket, deadline: Instant) -> Result<Option<Vec<u8>>> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(None);
    }
    socket.set_read_timeout(Some(left))?;
    let mut packet = vec![0; 65_536];
    match socket.read(&mut packet) {
        Ok(length) => {
            packet.truncate(length);
            Ok(Some(packet))
        }
        Err(error) if is_timeout(&error) => Ok(None),
        Err(error) => Err(error).context("receiving ICMP"),
    }
}

/// An identifier that no other probe of this process uses now.
pub(super) fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::packet::{ICMP, Ipv4};

    #[test]
    fn answers_are_told_from_other_icmp() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let request = Ipv4::new(a, b, ICMP, &echo_request(7, 9, b"hello")).bytes();
        assert!(Answer::parse(&request).is_none(), "a request is no answer");

        let mut reply = echo_request(7, 9, b"hello");
        reply[0] = 0;
        let packet = Ipv4::new(b, a, ICMP, &reply).bytes();
        let answer = Answer::parse(&packet).unwrap();
        assert_eq!((answer.from, answer.is_reply, answer.id, answer.sequence), (b, true, 7, 9));
        assert_eq!((answer.ttl, answer.payload), (64, &b"hello"[..]));

        let exceeded = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &request].concat();
        let packet = Ipv4::new(b, a, ICMP, &exceeded).bytes();
        let answer = Answer::parse(&packet).unwrap();
        assert_eq!((answer.is_reply, answer.id, answer.sequence), (false, 7, 9));
        assert!((0..packet.len()).all(|cut| Answer::parse(&packet[..cut]).is_none_or(|a| !a.is_reply)), "no panic");
    }
}
