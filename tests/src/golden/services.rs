//! Services: packets to a ClusterIP, and what comes back. The order counts: an answer follows its question.
//!
//! Each expectation looks at the whole packet with etherparse, checksums included, which shares no code with the programs.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4::DestUnreachableHeader};
use margay_maps::{
    Addr, Backend, BackendKey, DropReason, Hook, Id, Mac, Member, Outcome, Service, ServiceKey, ServiceState, overlay,
    protocol::{SCTP, TCP, UDP},
    user::Maps,
};

use super::{
    Case, Expect,
    expect::addressed,
    packet::{IP, OVERHEAD, crc32c, framed, udp, vxlan, with, with_options},
    world::{NEIGHBOUR, NEIGHBOUR_MAC, NODE, OTHER_NODE, OTHER_OVERLAY_MAC, OVERLAY_MAC, POD, POD_MAC, REMOTE, WORLD},
};

/// Services, one for each kind of backend: on another node,
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// here, and so on.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
const SELF: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 3);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 4);
const EMPTY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 6);
/// Every Service's port, every backend's port, and the clients'.
pub const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8_080;
const CLIENT_PORT: u16 = 40_000;
/// Where the kernel's router stands in the pods' world.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Where an SCTP header has its checksum, and how long a small packet of it is.
const SCTP_LEN: usize = 12 + 20;

/// Writes the Services into the maps.
pub fn fill(maps: &Maps) -> Result<()> {
    for protocol in [TCP, UDP, SCTP] {
        for (number, (address, backend)) in
            [(FAR, REMOTE), (NEAR, NEIGHBOUR), (SELF, POD), (OUTSIDE, WORLD)].into_iter().enumerate()
        {
            let set = Id { bytes: [0, 0, 0, 0, 0, 0, protocol, number as u8 + 1] };
            let backend = Backend { addr: backend.into(), port_be: BACKEND_PORT.to_be_bytes(), pad: [0; 2] };
            maps.backends.insert(&BackendKey { set, index: 0 }, &backend)?;
            maps.members.insert(&Member { set, backend }, &0)?;
            let service = Service { set, count: 1, ..Service::default() };
            maps.services.insert(&key(address, protocol), &service)?;
        }
        for (address, state) in [(EMPTY, ServiceState::NoEndpoints), (ELSEWHERE, ServiceState::NoneHere)] {
            maps.services.insert(&key(address, protocol), &Service { state, ..Service::default() })?;
        }
    }
    Ok(())
}

/// Between whom the flow is that a packet between these opens: a Service's is to its backend.
pub fn flow_ends((src, dst): (IpAddr, IpAddr)) -> (IpAddr, IpAddr) {
    let to = |backend: Ipv4Addr| (src, backend.into());
    match dst {
        IpAddr::V4(FAR) => to(REMOTE),
        IpAddr::V4(NEAR) => to(NEIGHBOUR),
        IpAddr::V4(OUTSIDE) => to(WORLD),
        IpAddr::V4(SELF) => (GATEWAY.into(), src),
        _ => (src, dst),
    }
}

fn key(address: Ipv4Addr, protocol: u8) -> ServiceKey {
    ServiceKey { addr: Addr::from(address), port_be: PORT.to_be_bytes(), protocol, pad: 0 }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [questions(), answers(), errors(), refusals()].into_iter().flatten().collect()
}

fn questions() -> Vec<Case> {
    let case = |name, packet, expect| Case { name, hook: Hook::FromWorkload, packet, expect };
    let delivered = |compare| Expect::Redirect(Outcome::Delivered, compare);
    let far = || Expect::Redirect(Outcome::Encapsulated, to_far);
    vec![
        case("a Service's packet goes to its backend here, UDP", to(NEAR, 64), delivered(to_near)),
        case("and TCP", tcp(POD, NEAR, SYN), delivered(to_near)),
        case("and SCTP, whose checksum has no addresses", sctp(POD, NEAR, CLIENT_PORT, PORT), delivered(to_near)),
        case("a Service's packet goes to its backend on another node, UDP", to(FAR, 64), far()),
        case("and TCP", tcp(POD, FAR, SYN), far()),
        case("and SCTP", sctp(POD, FAR, CLIENT_PORT, PORT), far()),
        case(
            "a UDP packet without a checksum stays without one",
            with(to(NEAR, 64), IP + 26, &[0, 0]),
            delivered(to_near),
        ),
        case("a second packet of the flow goes there too", to(FAR, 64), far()),
        case("a backend outside is the host's to reach", to(OUTSIDE, 64), Expect::Change(to_outside)),
        case(
            "a time to live that ends is the host's, on the way to the backend",
            to(FAR, 1),
            Expect::Change(to_far_by_host),
        ),
        case(
            "IP options are the host's, on the way to the backend",
            with_options(&to(FAR, 64), &[1, 1, 1, 0]),
            Expect::Change(to_far_by_host),
        ),
        case("a pod reaches itself, as somebody else", to(SELF, 64), delivered(to_self)),
        case("and answers itself", udp_between(POD, GATEWAY, BACKEND_PORT, CLIENT_PORT), delivered(from_self)),
        case("another port of a Service is the host's", udp(POD, EMPTY, 64, PORT + 1, 8), Expect::Pass),
    ]
}

fn answers() -> Vec<Case> {
    let case = |name, hook, packet, expect| Case { name, hook, packet, expect };
    let delivered = |compare| Expect::Redirect(Outcome::Delivered, compare);
    let far = |inner: Vec<u8>| vxlan(OTHER_NODE, NODE, overlay::VNI, &inner);
    let answer = framed(OTHER_OVERLAY_MAC, OVERLAY_MAC, REMOTE, POD, 63, BACKEND_PORT, CLIENT_PORT, &[0xcd; 32]);
    let error = far(between_nodes(icmp_about(OTHER_NODE, POD, udp_between(POD, REMOTE, CLIENT_PORT, BACKEND_PORT))));
    let from_world = udp_between(WORLD, POD, BACKEND_PORT, CLIENT_PORT);
    vec![
        case("what a backend answers comes from the Service, UDP", Hook::FromUplink, far(answer), delivered(from_far)),
        case("and TCP", Hook::FromUplink, far(between_nodes(tcp_answer())), delivered(from_far)),
        case(
            "and SCTP",
            Hook::FromUplink,
            far(between_nodes(sctp(REMOTE, POD, BACKEND_PORT, CLIENT_PORT))),
            delivered(from_far),
        ),
        case("an error about it is about the Service", Hook::FromUplink, error, delivered(error_from_far)),
        case(
            "what comes back through the host does so too",
            Hook::ToWorkload,
            from_world,
            Expect::Change(from_outside),
        ),
    ]
}

/// ICMP errors of the pod: as a client about what a Service has answered it, and as a backend that has been reached by itself.
fn errors() -> Vec<Case> {
    let case = |name, packet, expect| Case { name, hook: Hook::FromWorkload, packet, expect };
    let delivered = |compare| Expect::Redirect(Outcome::Delivered, compare);
    let refuse = |service| icmp_about(POD, service, udp_between(service, POD, PORT, CLIENT_PORT));
    let refuse_itself = icmp_about(POD, GATEWAY, udp_between(GATEWAY, POD, CLIENT_PORT, BACKEND_PORT));
    vec![
        case(
            "a client's error reaches the backend here, about what that has sent",
            refuse(NEAR),
            delivered(error_to_near),
        ),
        case(
            "and on another node",
            refuse(FAR),
            Expect::Redirect(Outcome::Encapsulated, |_, after| error_to_far(&after[OVERHEAD..])),
        ),
        case("and the client itself", refuse(SELF), delivered(error_to_self)),
        case("whose errors as a backend come from the Service", refuse_itself, delivered(error_from_self)),
        case("an error about a Service that was never asked is the host's", refuse(ELSEWHERE), Expect::Pass),
    ]
}

fn refusals() -> Vec<Case> {
    let case = |name, packet, expect| Case { name, hook: Hook::FromWorkload, packet, expect };
    let reason = DropReason::ServiceWithoutEndpoints;
    vec![
        case("without endpoints TCP is reset", tcp(POD, EMPTY, SYN), Expect::Reject(reason, reset)),
        case("a segment in the middle too", tcp(POD, EMPTY, ACK), Expect::Reject(reason, reset_in_the_middle)),
        case("a reset has no answer", tcp(POD, EMPTY, RST), Expect::Drop(reason)),
        case("UDP is told by ICMP", to(EMPTY, 64), Expect::Reject(reason, unreachable)),
        case("and SCTP", sctp(POD, EMPTY, CLIENT_PORT, PORT), Expect::Reject(reason, unreachable)),
        case(
            "without endpoints on this node it is dropped",
            to(ELSEWHERE, 64),
            Expect::Drop(DropReason::NoLocalEndpoint),
        ),
        case(
            "another's packet to a Service is spoofed",
            udp(NEIGHBOUR, FAR, 64, PORT, 8),
            Expect::Drop(DropReason::SpoofedSource),
        ),
    ]
}

/// TCP's flags (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The sequence numbers of our segments.
const SEQ: u32 = 0x8000_0001;
const ACKED: u32 = 0x7000_0002;

/// A UDP packet of the pod to a Service.
fn to(service: Ipv4Addr, ttl: u8) -> Vec<u8> {
    framed(POD_MAC, Mac::GATEWAY, POD, service, ttl, CLIENT_PORT, PORT, &[0xab; 32])
}

fn udp_between(src: Ipv4Addr, dst: Ipv4Addr, src_port: u16, dst_port: u16) -> Vec<u8> {
    framed(POD_MAC, Mac::GATEWAY, src, dst, 64, src_port, dst_port, &[0xab; 32])
}

/// A segment of the pod to a Service.
fn tcp(src: Ipv4Addr, dst: Ipv4Addr, flags: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(POD_MAC.bytes, Mac::GATEWAY.bytes).ipv4(src.octets(), dst.octets(), 64);
    let mut builder = builder.tcp(CLIENT_PORT, PORT, SEQ, 1_000);
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & RST != 0 {
        builder = builder.rst();
    }
    if flags & ACK != 0 {
        builder = builder.ack(ACKED);
    }
    let mut packet = Vec::new();
    builder.write(&mut packet, &[]).expect("a Vec takes any packet");
    packet
}

/// What [`REMOTE`] answers to a SYN.
fn tcp_answer() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4(REMOTE.octets(), POD.octets(), 63);
    let builder = builder.tcp(BACKEND_PORT, CLIENT_PORT, 1, 1_000).syn().ack(SEQ + 1);
    let mut packet = Vec::new();
    builder.write(&mut packet, &[]).expect("a Vec takes any packet");
    packet
}

/// An SCTP INIT from the pod, and an INIT ACK to it (RFC 9260, sections 3.3.2 and 3.3.3), with the right checksum.
fn sctp(src: Ipv4Addr, dst: Ipv4Addr, src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut message = vec![0; SCTP_LEN];
    message[..2].copy_from_slice(&src_port.to_be_bytes());
    message[2..4].copy_from_slice(&dst_port.to_be_bytes());
    let chunk = if src == POD { 1 } else { 2 };
    message[12..16].copy_from_slice(&[chunk, 0, 0, 20]);
    let sum = crc32c(&message).to_le_bytes();
    message[8..12].copy_from_slice(&sum);
    let builder = PacketBuilder::ethernet2(POD_MAC.bytes, Mac::GATEWAY.bytes).ipv4(src.octets(), dst.octets(), 64);
    let mut packet = Vec::new();
    builder.write(&mut packet, SCTP.into(), &message).expect("a Vec takes any packet");
    packet
}

/// "Port unreachable" about a packet, of which it has the header and 8 bytes.
fn icmp_about(src: Ipv4Addr, dst: Ipv4Addr, about: Vec<u8>) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(POD_MAC.bytes, Mac::GATEWAY.bytes).ipv4(src.octets(), dst.octets(), 64);
    let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
    let mut packet = Vec::new();
    builder.write(&mut packet, &about[IP..IP + 28]).expect("a Vec takes any packet");
    packet
}

/// The packet, addressed to this node's overlay device.
fn between_nodes(mut packet: Vec<u8>) -> Vec<u8> {
    packet[..6].copy_from_slice(&OVERLAY_MAC.bytes);
    packet[6..12].copy_from_slice(&OTHER_OVERLAY_MAC.bytes);
    packet
}

/// An address with a port.
type End = (Ipv4Addr, u16);

fn to_near(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, NEIGHBOUR_MAC)?;
    readdressed(before, after, (POD, CLIENT_PORT), (NEIGHBOUR, BACKEND_PORT), 63)
}

fn to_far(before: &[u8], after: &[u8]) -> Result<()> {
    let inner = &after[OVERHEAD..];
    addressed(inner, OVERLAY_MAC, OTHER_OVERLAY_MAC)?;
    readdressed(before, inner, (POD, CLIENT_PORT), (REMOTE, BACKEND_PORT), 63)
}

fn to_far_by_host(before: &[u8], after: &[u8]) -> Result<()> {
    readdressed(before, after, (POD, CLIENT_PORT), (REMOTE, BACKEND_PORT), before[IP + 8])
}

fn to_outside(before: &[u8], after: &[u8]) -> Result<()> {
    readdressed(before, after, (POD, CLIENT_PORT), (WORLD, BACKEND_PORT), 64)
}

fn from_outside(before: &[u8], after: &[u8]) -> Result<()> {
    readdressed(before, after, (OUTSIDE, PORT), (POD, CLIENT_PORT), 64)
}

fn to_self(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    readdressed(before, after, (GATEWAY, CLIENT_PORT), (POD, BACKEND_PORT), 63)
}

fn from_self(before: &[u8], after: &[u8]) -> Result<()> {
    readdressed(before, after, (SELF, PORT), (POD, CLIENT_PORT), 63)
}

fn from_far(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    let before = &before[OVERHEAD..];
    readdressed(before, after, (FAR, PORT), (POD, CLIENT_PORT), before[IP + 8] - 1)
}

/// Between these ends, with this time to live, every checksum right, and the payload as it was.
fn readdressed(before: &[u8], after: &[u8], from: End, to: End, ttl: u8) -> Result<()> {
    ensure!(before.len() == after.len(), "{} bytes became {}", before.len(), after.len());
    let sliced = SlicedPacket::from_ethernet(after).context("etherparse does not understand the packet")?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { anyhow::bail!("no IPv4") };
    let header = ip.header().to_header();
    ensure!(header.calc_header_checksum() == header.header_checksum, "the IPv4 checksum is wrong");
    ensure!(header.time_to_live == ttl, "the time to live is {} instead of {ttl}", header.time_to_live);
    let (src, dst) = (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
    ensure!((src, dst) == (from.0, to.0), "from {src} to {dst}");
    let at = IP + header.header_len();
    let ports = |bytes: &[u8]| (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]));
    ensure!(ports(&after[at..]) == (from.1, to.1), "ports {:?}", ports(&after[at..]));
    let headers = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => {
            let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload())?;
            // Without one before, without one after.
            let sent_without = before[at + 6..at + 8] == [0, 0];
            let expected = if sent_without { 0 } else { right };
            ensure!(udp.checksum() == expected, "the UDP checksum is {:04x} instead of {expected:04x}", udp.checksum());
            8
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let right = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload())?;
            ensure!(tcp.checksum() == right, "the TCP checksum is {:04x} instead of {right:04x}", tcp.checksum());
            20
        }
        _ => {
            let mut message = after[at..].to_vec();
            let found: [u8; 4] = message[8..12].try_into()?;
            message[8..12].fill(0);
            ensure!(u32::from_le_bytes(found) == crc32c(&message), "the SCTP checksum is wrong");
            12
        }
    };
    ensure!(before[at + headers..] == after[at + headers..], "the payload was changed");
    Ok(())
}

/// The error names the Service and its port in the packet that it is about.
fn error_from_far(_before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    error(after, (OTHER_NODE, POD), (POD, CLIENT_PORT), (FAR, PORT))
}

fn error_to_near(_before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, NEIGHBOUR_MAC)?;
    error(after, (POD, NEIGHBOUR), (NEIGHBOUR, BACKEND_PORT), (POD, CLIENT_PORT))
}

fn error_to_far(inner: &[u8]) -> Result<()> {
    error(inner, (POD, REMOTE), (REMOTE, BACKEND_PORT), (POD, CLIENT_PORT))
}

fn error_to_self(_before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    error(after, (GATEWAY, POD), (POD, BACKEND_PORT), (GATEWAY, CLIENT_PORT))
}

fn error_from_self(_before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    error(after, (SELF, POD), (POD, CLIENT_PORT), (SELF, PORT))
}

/// An ICMP error between these two, about a packet between these ends, with every checksum right.
fn error(after: &[u8], between: (Ipv4Addr, Ipv4Addr), from: End, to: End) -> Result<()> {
    let sliced = SlicedPacket::from_ethernet(after)?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { anyhow::bail!("no IPv4") };
    let header = ip.header().to_header();
    ensure!(header.calc_header_checksum() == header.header_checksum, "the IPv4 checksum is wrong");
    ensure!((Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination)) == between, "{header:?}");
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { anyhow::bail!("no ICMP") };
    ensure!(super::packet::checksum(icmp.slice()) == 0, "the ICMP checksum is wrong");
    about(icmp.payload(), from, to)
}

/// The quoted packet is between these.
fn about(quoted: &[u8], from: End, to: End) -> Result<()> {
    let header = etherparse::Ipv4HeaderSlice::from_slice(quoted)?.to_header();
    ensure!(header.calc_header_checksum() == header.header_checksum, "the quoted header's checksum is wrong");
    ensure!((Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination)) == (from.0, to.0), "{header:?}");
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    ensure!(quoted[20..24] == ports, "quoted ports {:x?}", &quoted[20..24]);
    Ok(())
}

fn reset(before: &[u8], after: &[u8]) -> Result<()> {
    let tcp = reset_header(before, after)?;
    ensure!(tcp.ack && tcp.sequence_number == 0 && tcp.acknowledgment_number == SEQ + 1, "{tcp:?}");
    Ok(())
}

fn reset_in_the_middle(before: &[u8], after: &[u8]) -> Result<()> {
    let tcp = reset_header(before, after)?;
    ensure!(!tcp.ack && tcp.sequence_number == ACKED, "{tcp:?}");
    Ok(())
}

fn reset_header(_before: &[u8], after: &[u8]) -> Result<etherparse::TcpHeader> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    readdressed(after, after, (EMPTY, PORT), (POD, CLIENT_PORT), 64)?;
    let sliced = SlicedPacket::from_ethernet(after)?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { anyhow::bail!("no TCP") };
    let tcp = tcp.to_header();
    ensure!(tcp.rst && !tcp.syn && !tcp.fin, "{tcp:?}");
    Ok(tcp)
}

fn unreachable(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    let sliced = SlicedPacket::from_ethernet(after)?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { anyhow::bail!("no IPv4") };
    let header = ip.header().to_header();
    ensure!(header.calc_header_checksum() == header.header_checksum, "the IPv4 checksum is wrong");
    ensure!((Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination)) == (EMPTY, POD), "{header:?}");
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { anyhow::bail!("no ICMP") };
    ensure!(super::packet::checksum(icmp.slice()) == 0, "the ICMP checksum is wrong");
    let port = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    ensure!(icmp.header().icmp_type == port, "{:?}", icmp.header());
    let quoted = icmp.payload();
    ensure!(quoted.len() >= 28 && before[IP..].starts_with(quoted), "what is quoted is not the packet");
    about(quoted, (POD, CLIENT_PORT), (EMPTY, PORT))
}
