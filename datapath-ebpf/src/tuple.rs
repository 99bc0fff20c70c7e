//! What tells one flow from another: both ends with their ports, in the order of the flow table, and what the packet
//! means for its flow.
//!
//! In: a parsed IPv4 packet. Out: a [`Tuple`]. Never: a verdict.

use core::ptr::NonNull;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use margay_maps::{
    Addr, DropReason, Endpoint, FlowKey, Fragment, FragmentKey,
    protocol::{
        ICMP, SCTP, TCP, UDP,
        tcp::{ACK, SYN},
    },
};
use network_types::ip::Ipv4Hdr;

use crate::{
    head::Headers,
    ipv4::Ipv4,
    lookup::{TUPLE, endpoint, fragment, is_allowed, remember_fragment},
    packet::Packet,
    words::{copy, same},
};

/// Echo reply and echo request (RFC 792).
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;
/// Errors, which carry the packet that they are about: unreachable, time exceeded, parameter problem (RFC 792).
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_TIME_EXCEEDED: u8 = 11;
const ICMP_PARAMETER: u8 = 12;
/// The chunk that opens an association (RFC 9260, section 3.2).
const SCTP_INIT: u8 = 1;

/// One packet's place in the flow table. It lies in this CPU's scratch area: the slow path, which is verified by itself,
/// takes no pointers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Tuple {
    /// The flow's key.
    pub key: FlowKey,
    /// Which half the packet belongs to: 0 if the lower end sent it, otherwise 1.
    pub half: u32,
    /// What it means for the flow: bits, below.
    pub flags: u32,
    /// TCP flags; otherwise 0.
    pub tcp_flags: u32,
    /// Of a packet that came by the overlay: the node that sent it, an IPv4 address in network byte order.
    pub sender: [u8; 4],
    /// Of a packet to a Service, once `key` is that of the flow to a backend: the Service's address, network byte order.
    /// Zero otherwise.
    pub nat: [u8; 4],
    /// The Service's port, likewise.
    pub nat_port_be: [u8; 2],
    pad: [u8; 2],
    /// With [`Tuple::TO_BACKEND`] and [`Tuple::FROM_SERVICE`]: what the packet's ends are to be.
    pub to: Ends,
    /// The packet's IPv4 header. Of a plain packet it is here only while the packet is being readdressed.
    pub ip: Ipv4,
    /// The lower and the higher end, from [`Tuple::look_up_ends`] on.
    parties: [Party; 2],
    /// Bytes of the packet that could not be read in their place.
    copy: [u8; COPY],
}

/// How many bytes are needed at most: what an ICMP error carries.
const COPY: usize = 28;

/// What counts of a transport header.
struct Head {
    /// Its first four bytes: the ports, or ICMP's type, code and checksum.
    first: [u8; 4],
    /// Its fifth and sixth byte, where they were asked for.
    next: [u8; 2],
    /// The last byte that was asked for.
    last: u8,
}

/// Ports as they stand in a packet.
type Ports = ([u8; 2], [u8; 2]);

/// Both ends of a packet, as they stand in it or are to stand in it: network byte order throughout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ends {
    /// The sender's address.
    pub src: [u8; 4],
    /// The receiver's address.
    pub dst: [u8; 4],
    /// The sender's port.
    pub src_port: [u8; 2],
    /// The receiver's port.
    pub dst_port: [u8; 2],
}

/// An end of a flow as the slow path knows it: looked up once, and referred to where it lies, for the slow path's stack has no room
/// for copies.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Party {
    /// Its address, as the maps have it.
    pub addr: Addr,
    /// Whether `endpoint` says anything.
    is_local: u32,
    /// What `endpoints` has of it.
    endpoint: Endpoint,
}

// === impl Party ===

impl Party {
    /// What it is, if it is of this node.
    #[inline(always)]
    pub fn local(&self) -> Option<&Endpoint> {
        (self.is_local != 0).then_some(&self.endpoint)
    }

    /// Whether it is the pod behind the interface.
    #[inline(always)]
    pub fn is_behind(&self, ifindex: u32) -> bool {
        self.local().is_some_and(|local| local.is_behind(ifindex))
    }

    #[inline(always)]
    fn look_up(&mut self, v4: [u8; 4]) {
        self.addr = Addr::from_v4(v4);
        self.is_local = 0;
        if let Some(local) = endpoint(&self.addr) {
            self.is_local = 1;
            copy::<u32, _>(&mut self.endpoint, local);
        }
    }
}

/// No ports: it has none, or they cannot be known.
const NO_PORTS: Ports = ([0; 2], [0; 2]);

// === impl Tuple ===

impl Tuple {
    /// It begins a conversation: a TCP SYN, an SCTP INIT, an ICMP echo request. A UDP packet may or may not.
    pub const OPENS: u32 = 1 << 0;
    /// It leaves no trace in the table: it has no ports that could be known.
    pub const STATELESS: u32 = 1 << 1;
    /// It is an ICMP error. `key` is that of the packet it is about, and `half` the one that this packet takes the place of.
    pub const ERROR: u32 = 1 << 2;
    /// It is for a Service and has yet to be readdressed to the backend: [`Tuple::to`].
    pub const TO_BACKEND: u32 = 1 << 3;
    /// It answers a flow that was opened through a Service, and has yet to be made to come from there: [`Tuple::to`].
    pub const FROM_SERVICE: u32 = 1 << 4;
    /// A pod has reached itself through a Service: the key has [`Addr::GATEWAY`] for its sender.
    pub const HAIRPIN: u32 = 1 << 5;
    /// It is an ICMP error about a packet of no allowed flow. That packet can still have come from a Service: [`Tuple::set_about`].
    pub const ABOUT_OTHER: u32 = 1 << 6;
    /// The table has no entry under this key, or none that is the packet's.
    pub const ABSENT: u32 = 1 << 7;

    /// Ports that nobody knows are no part of a flow's key, and an entry for none is another packet's.
    const NO_FLOW: u32 = Self::STATELESS | Self::ABSENT;

    /// Reads the transport header of the packet whose IPv4 header is at `offset`, unless that has been read.
    #[inline(always)]
    pub fn read(packet: &Packet, headers: &Headers, offset: usize) -> Result<&'static mut Self, DropReason> {
        let Some(tuple) = TUPLE.get_ptr_mut(0) else { return Err(DropReason::NotConfigured) };
        // SAFETY: this CPU's own element; programs of one CPU do not run within each other at these hooks.
        let tuple = unsafe { &mut *tuple };
        let Headers { ip, transport } = headers;
        match transport {
            Some(transport) => {
                tuple.begin();
                tuple.set_tcp_flags(transport.tcp_flags);
                tuple.set(u32::from_ne_bytes(ip.src), u32::from_ne_bytes(ip.dst), transport.ports, ip.proto);
            }
            None => {
                tuple.ip = *ip;
                if read_tuple(packet.skb(), offset as u32) != 0 {
                    return Err(DropReason::TruncatedTransport);
                }
            }
        }
        Ok(tuple)
    }

    /// Nothing is known of the packet yet. All else is written later, or read only where a flag says so.
    #[inline(always)]
    fn begin(&mut self) {
        self.flags = 0;
        self.tcp_flags = 0;
        self.nat = [0; 4];
        self.nat_port_be = [0; 2];
        self.pad = [0; 2];
    }

    #[inline(always)]
    fn set_tcp_flags(&mut self, flags: u8) {
        self.tcp_flags = flags as u32;
        if flags & (SYN | ACK) == SYN {
            self.flags = Self::OPENS;
        }
    }

    #[inline(always)]
    fn fill(&mut self, packet: &mut Packet, offset: usize) -> Result<(), DropReason> {
        let tuple = self;
        let ip = tuple.ip;
        let ip = &ip;
        let of = |(src_port, dst_port)| Ends { src: ip.src, dst: ip.dst, src_port, dst_port };
        tuple.begin();
        if ip.is_later_fragment() {
            let ports = match fragment(&fragment_key(ip)) {
                Some(first) => (first.src_port_be, first.dst_port_be),
                None => {
                    tuple.flags = Self::NO_FLOW;
                    NO_PORTS
                }
            };
            tuple.set_ends(&of(ports), ip.proto);
            return Ok(());
        }
        let ports = match ip.proto {
            TCP => {
                let tcp = tuple.transport::<14>(packet, ip, offset)?;
                tuple.set_tcp_flags(tcp.last);
                ports(tcp.first)
            }
            UDP => ports(tuple.transport::<4>(packet, ip, offset)?.first),
            SCTP => {
                let sctp = tuple.copied::<13>(packet, ip, offset)?;
                if sctp.last == SCTP_INIT {
                    tuple.flags = Self::OPENS;
                }
                ports(sctp.first)
            }
            ICMP => {
                let icmp = tuple.transport::<6>(packet, ip, offset)?;
                match icmp.first[0] {
                    ICMP_ECHO => {
                        tuple.flags = Self::OPENS;
                        (icmp.next, icmp.next)
                    }
                    ICMP_ECHO_REPLY => (icmp.next, icmp.next),
                    ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER => {
                        let mut about = 0;
                        if tuple.read_about(packet, ip, offset) {
                            tuple.set_about();
                            if is_allowed(&tuple.key) {
                                return Ok(());
                            }
                            about = Self::ABOUT_OTHER;
                        }
                        tuple.flags = Self::NO_FLOW | about;
                        NO_PORTS
                    }
                    _ => NO_PORTS,
                }
            }
            _ => NO_PORTS,
        };
        tuple.set_ends(&of(ports), ip.proto);
        if ip.is_fragment() {
            remember_fragment(&fragment_key(ip), &Fragment { src_port_be: ports.0, dst_port_be: ports.1 });
        }
        Ok(())
    }

    /// Of an ICMP error: the beginning of the packet that it is about, if that was the receiver's. Otherwise false.
    #[inline(always)]
    fn read_about(&mut self, packet: &Packet, ip: &Ipv4, offset: usize) -> bool {
        // Behind 8 bytes of ICMP: the packet's header, and 8 bytes of what it carried.
        if !packet.copy(offset + ip.header_len as usize + 8, &mut self.copy) {
            return false;
        }
        let inner = &self.copy;
        inner[0] == 0x45 && same([inner[12], inner[13], inner[14], inner[15]], ip.dst)
    }

    /// Makes the error one about the packet that was read last, with its flow's key.
    #[inline(always)]
    pub fn set_about(&mut self) {
        let inner = &self.copy;
        let ports = match inner[9] {
            TCP | UDP | SCTP => ports([inner[20], inner[21], inner[22], inner[23]]),
            ICMP => ([inner[24], inner[25]], [inner[24], inner[25]]),
            _ => NO_PORTS,
        };
        let src = [inner[12], inner[13], inner[14], inner[15]];
        let dst = [inner[16], inner[17], inner[18], inner[19]];
        let protocol = inner[9];
        self.set_ends(&Ends { src, dst, src_port: ports.0, dst_port: ports.1 }, protocol);
        // The error goes to the sender: it takes the place of an answer.
        self.half ^= 1;
        self.flags = Self::ERROR | Self::STATELESS;
    }

    /// An ICMP error about nothing that is known: a packet like any other, for its own receiver.
    #[inline(always)]
    pub fn set_about_nothing(&mut self) {
        let (src, dst) = (self.ip.src, self.ip.dst);
        self.nat = [0; 4];
        self.nat_port_be = [0; 2];
        self.flags = Self::NO_FLOW;
        self.set_ends(&Ends { src, dst, src_port: NO_PORTS.0, dst_port: NO_PORTS.1 }, ICMP);
    }

    /// The first `N` bytes behind the IPv4 header.
    #[inline(always)]
    fn transport<const N: usize>(&mut self, packet: &mut Packet, ip: &Ipv4, offset: usize) -> Result<Head, DropReason> {
        if ip.header_len != Ipv4Hdr::LEN as u32 {
            return self.copied::<N>(packet, ip, offset);
        }
        let short = DropReason::TruncatedTransport;
        if !packet.pull(offset + Ipv4Hdr::LEN + N) {
            return Err(short);
        }
        packet.at::<[u8; N]>(offset + Ipv4Hdr::LEN).map(head).ok_or(short)
    }

    /// Likewise, read where they are, and the packet is left as it is: SCTP's chunks may each be a packet of its own, strung
    /// together (`GSO_BY_FRAGS`), and kernels panic if one that a byte was pulled out of reaches a socket.
    #[inline(always)]
    fn copied<const N: usize>(&mut self, packet: &Packet, ip: &Ipv4, offset: usize) -> Result<Head, DropReason> {
        let short = DropReason::TruncatedTransport;
        let Some(copy) = self.copy.first_chunk_mut::<N>() else { return Err(short) };
        if packet.copy(offset + ip.header_len as usize, copy) { Ok(head(copy)) } else { Err(short) }
    }

    /// The key, with the lower end first. Addresses and ports as words of memory: the ports' are the sender's and the receiver's.
    #[inline(always)]
    fn set(&mut self, src: u32, dst: u32, ports: u32, protocol: u8) {
        let (a, b) = (u32::from_be(src), u32::from_be(dst));
        let in_order = u32::from_be(ports);
        let swap = a > b || (a == b && in_order >> 16 > in_order & 0xffff);
        self.key = if swap {
            FlowKey::from_v4_words(dst, src, ports.rotate_left(16), protocol)
        } else {
            FlowKey::from_v4_words(src, dst, ports, protocol)
        };
        self.half = swap as u32;
    }

    /// Likewise.
    #[inline(always)]
    fn set_ends(&mut self, ends: &Ends, protocol: u8) {
        let ([a, b], [c, d]) = (ends.src_port, ends.dst_port);
        let ports = u32::from_ne_bytes([a, b, c, d]);
        self.set(u32::from_ne_bytes(ends.src), u32::from_ne_bytes(ends.dst), ports, protocol);
    }

    /// A packet to a Service is one to this backend: `key` becomes that of the flow between the two.
    #[inline(always)]
    pub fn lead_to(&mut self, backend: [u8; 4], port_be: [u8; 2]) {
        let (src, service) = self.ends_v4();
        let (src_port, dst_port) = self.ends_ports();
        self.nat = service;
        self.nat_port_be = dst_port;
        self.flags = self.flags & !Self::ABSENT | Self::TO_BACKEND;
        let src = if same(src, backend) {
            self.flags |= Self::HAIRPIN;
            Addr::GATEWAY.v4()
        } else {
            src
        };
        self.to = Ends { src, dst: backend, src_port, dst_port: port_be };
        let to = self.to;
        let protocol = self.key.protocol;
        self.set_ends(&to, protocol);
    }

    /// A packet that answers one to a Service: it is to come from there.
    #[inline(always)]
    pub fn come_from(&mut self, service: [u8; 4], port_be: [u8; 2]) {
        // Both ends have opened this flow through a Service: it goes to its backend, and that is that.
        if self.has(Self::TO_BACKEND) {
            return;
        }
        let (src, dst) = self.ends_v4();
        let dst = if same(dst, Addr::GATEWAY.v4()) { src } else { dst };
        self.to = Ends { src: service, dst, src_port: port_be, dst_port: self.ends_ports().1 };
        self.flags |= Self::FROM_SERVICE;
    }

    /// The packet's own ports: source, destination.
    #[inline(always)]
    pub fn ports_in_packet(&self) -> [u8; 4] {
        let (src, dst) =
            if self.has(Self::TO_BACKEND) { (self.to.src_port, self.nat_port_be) } else { self.ends_ports() };
        [src[0], src[1], dst[0], dst[1]]
    }

    /// Sender and receiver.
    #[inline(always)]
    pub fn ends(&self) -> (Addr, Addr) {
        let (src, dst) = self.ends_v4();
        (Addr::from_v4(src), Addr::from_v4(dst))
    }

    /// Sender and receiver, network byte order.
    #[inline(always)]
    pub fn ends_v4(&self) -> ([u8; 4], [u8; 4]) {
        let (low, high) = (&self.key.low_v4, &self.key.high_v4);
        if self.half == 0 { (*low, *high) } else { (*high, *low) }
    }

    /// Looks up who both ends are, for [`Tuple::party`].
    #[inline(always)]
    pub fn look_up_ends(&mut self) {
        self.parties[0].look_up(self.key.low_v4);
        self.parties[1].look_up(self.key.high_v4);
    }

    /// The lower (0) or the higher end, as it was when they were last looked up. The sender of a half has the half's number, the
    /// receiver the other one.
    #[inline(always)]
    pub fn party(&self, end: u32) -> &Party {
        if end == 0 { &self.parties[0] } else { &self.parties[1] }
    }

    /// The sender's and the receiver's port, network byte order.
    #[inline(always)]
    pub fn ends_ports(&self) -> Ports {
        self.ports_of(self.half)
    }

    /// The ports of a half's sender and receiver, likewise.
    #[inline(always)]
    pub fn ports_of(&self, half: u32) -> Ports {
        let (low, high) = (self.key.low_port_be, self.key.high_port_be);
        if half == 0 { (low, high) } else { (high, low) }
    }

    /// Whether any of these bits is set.
    #[inline(always)]
    pub fn has(&self, bits: u32) -> bool {
        self.flags & bits != 0
    }

    /// Whether it is an ICMP error about a known flow.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.has(Self::ERROR)
    }
}

/// Reads the packet in [`TUPLE`], whose `ip` is set. 0, or 1 if the packet is too short.
///
/// A function of its own for the verifier, as is [`crate::open::open_flow`]; and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_tuple(skb: *mut __sk_buff, offset: u32) -> u32 {
    let (Some(tuple), Some(skb)) = (TUPLE.get_ptr_mut(0), NonNull::new(skb)) else { return 1 };
    // SAFETY: as in `Tuple::read`.
    let tuple = unsafe { &mut *tuple };
    let mut packet = Packet::new(TcContext::new(skb));
    // No header that is read here begins further in; the verifier must know.
    tuple.fill(&mut packet, (offset & 0x7f) as usize).is_err() as u32
}

#[inline(always)]
const fn ports([a, b, c, d]: [u8; 4]) -> Ports {
    ([a, b], [c, d])
}

#[inline(always)]
fn fragment_key(ip: &Ipv4) -> FragmentKey {
    FragmentKey { src: Addr::from_v4(ip.src), dst: Addr::from_v4(ip.dst), id_be: ip.id_be, protocol: ip.proto, pad: 0 }
}

#[inline(always)]
fn head<const N: usize>(bytes: &[u8; N]) -> Head {
    let at = |i: usize| bytes.get(i).copied().unwrap_or_default();
    Head { first: [at(0), at(1), at(2), at(3)], next: [at(4), at(5)], last: at(N - 1) }
}
