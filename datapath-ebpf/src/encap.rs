//! VXLAN by hand (RFC 7348): the outer header in one piece, written and read.

use aya_ebpf::{
    bindings::bpf_redir_neigh,
    helpers::{bpf_redirect, bpf_redirect_neigh},
};
use margay_maps::{
    Config, DropReason, Features, Half, Outcome, overlay,
    protocol::{TCP, UDP},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, udp::UdpHdr};

use crate::{
    count::Verdict,
    flow::Course,
    ipv4::{ETHER_IPV4, Ipv4},
    lookup::Aligned,
    packet::{Packet, put_mac},
    words::{same, word},
};

/// All that stands before the inner IPv4 header on the wire.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Outer {
    /// Outer Ethernet.
    pub eth: EthHdr,
    /// Outer IPv4.
    pub ip: Ipv4Hdr,
    /// UDP.
    pub udp: UdpHdr,
    /// VXLAN.
    pub vxlan: Vxlan,
    /// Inner Ethernet.
    pub inner_eth: EthHdr,
}

/// The same, with the header of the packet inside.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Encapsulated {
    /// All that stands before.
    pub outer: Outer,
    /// The inner IPv4 header.
    pub inner: Ipv4Hdr,
}

/// VXLAN's header (RFC 7348, section 5): two words in network byte order, each of 24 bits and 8.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Vxlan {
    flags_be: u32,
    vni_be: u32,
}

/// What encapsulation adds behind the outer Ethernet header.
pub const OVERHEAD: u32 = overlay::OVERHEAD_V4;

const _: () = assert!(size_of::<Outer>() == EthHdr::LEN + OVERHEAD as usize);

/// The flag of a VXLAN header whose network identifier counts.
const VXLAN_VNI_VALID: u32 = 0x0800_0000;

/// The time to live of the outer packet; what Linux gives its own tunnels' packets as well (`IPDEFTTL`).
const OUTER_TTL: u8 = 64;

/// The address family of a neighbour's IPv4 address (include/linux/socket.h).
const AF_INET: u32 = 2;

/// The first of the ports that RFC 7348, section 5, recommends as source ports: 49152 to 65535.
const FIRST_PORT: u16 = 0xc000;

/// "Congestion experienced" and the mask of its field (RFC 3168, section 5).
pub const ECN_CE: u8 = 0b11;

// === impl Vxlan ===

impl Vxlan {
    /// The header of a network.
    #[inline(always)]
    const fn new(vni: u32) -> Self {
        Self { flags_be: VXLAN_VNI_VALID.to_be(), vni_be: (vni << 8).to_be() }
    }

    /// Whether the packet behind it is in this network.
    #[inline(always)]
    pub const fn is_of(self, vni: u32) -> bool {
        let (flags, its) = (u32::from_be(self.flags_be), u32::from_be(self.vni_be));
        flags & VXLAN_VNI_VALID != 0 && its >> 8 == vni
    }
}

/// Whether the packet, or every segment that it will be cut into, fits into the overlay.
#[inline(always)]
pub fn fits(packet: &Packet, ip: &Ipv4, mtu: u32) -> bool {
    let len = packet.bytes() - EthHdr::LEN as u32;
    if len <= mtu {
        return !packet.is_strung(ip.proto);
    }
    let segment = packet.gso_size();
    // Uncut, or so long that the outer header's 16 bits could not say it.
    if segment == 0 || len + OVERHEAD > 0xffff {
        return false;
    }
    let transport = match ip.proto {
        // The data offset, in words of four bytes, is the upper half of byte 12 (RFC 9293, section 3.1).
        TCP => match packet.be16_at(EthHdr::LEN + ip.header_len as usize + 12) {
            Some(word) => ((word >> 12) as u32) * 4,
            None => return false,
        },
        UDP => UdpHdr::LEN as u32,
        _ => return false,
    };
    ip.header_len + transport + segment <= mtu
}

/// Sends a checked, plain packet to the node that its half of the flow names.
#[inline(always)]
pub fn send(packet: &mut Packet, ip: &Ipv4, course: Course, config: &Config) -> Result<Verdict, DropReason> {
    if !config.features.has(Features::OWN_ENCAP) {
        Ipv4::decrement_ttl(packet, EthHdr::LEN)?;
        // `to_overlay` does the rest there.
        // SAFETY: a plain call; out by the overlay device.
        return Ok(Verdict::redirect(Outcome::Encapsulated, unsafe { bpf_redirect(config.overlay_ifindex, 0) }));
    }
    let to = course.half;
    let hash = packet.hash();
    let id = identification(to.packets, hash);
    packet.grow(OVERHEAD, config.features.has(Features::ENCAP_L2_ETH))?;
    write(packet, &outer_ip(packet, ip.tos, id, to, config), hash, to, config)?;
    Ok(Verdict::redirect(Outcome::Encapsulated, hand_over(to.ifindex, course.flow.next_hop_v4)))
}

/// The identification of a flow's outer packets, each of which has its own, so that a path which cuts them does not mix up the
/// pieces of two (RFC 6864, section 4.3). One that is yet to be cut into segments takes one for each of them; flows begin at
/// different ones.
#[inline(always)]
fn identification(packets: u64, hash: u32) -> u16 {
    /// Odd, so that a flow uses all 65,536 before it uses one again.
    const SEGMENTS: u32 = 127;
    (packets as u32).wrapping_mul(SEGMENTS).wrapping_add(hash) as u16
}

/// Hands the packet to the neighbour on the uplink. Without one the kernel looks it up, for each packet.
#[inline(always)]
fn hand_over(ifindex: u32, next_hop: [u8; 4]) -> i64 {
    if same(next_hop, [0; 4]) {
        // SAFETY: a plain call.
        return unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
    }
    // `struct bpf_redir_neigh`, in words: the compiler would clear it by a loop over bytes.
    let mut neighbour = Aligned([AF_INET, word(next_hop), 0, 0, 0]);
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `neighbour` is as long as the size given.
    unsafe { bpf_redirect_neigh(ifindex, (&raw mut neighbour).cast(), size, 0) }
}

/// The outer IPv4 header of a packet that has been given room for it.
#[inline(always)]
fn outer_ip(packet: &Packet, tos: u8, id: u16, to: &Half, config: &Config) -> Ipv4Hdr {
    let mut ip = Ipv4Hdr {
        vihl: 0x45,
        // The inner packet's ECN field goes outside (RFC 6040, section 4.1), the rest of it does not.
        tos: tos & ECN_CE,
        tot_len: ((packet.bytes() - EthHdr::LEN as u32) as u16).to_be_bytes(),
        id: id.to_be_bytes(),
        frags: [0; 2],
        ttl: OUTER_TTL,
        proto: UDP,
        check: [0; 2],
        src_addr: config.node.v4(),
        dst_addr: to.node_v4,
    };
    ip.check = checksum(&ip);
    ip
}

/// Writes the whole header into the room that has been made for it, and takes the step that every router takes on the packet inside.
#[inline(always)]
fn write(packet: &mut Packet, ip: &Ipv4Hdr, hash: u32, to: &Half, config: &Config) -> Result<(), DropReason> {
    let port = FIRST_PORT | (hash ^ (hash >> 16)) as u16;
    let udp_len = u16::from_be_bytes(ip.tot_len).wrapping_sub(Ipv4Hdr::LEN as u16);
    let Some(packet) = packet.at_mut::<Encapsulated>(0) else { return Err(DropReason::RewriteFailed) };
    Ipv4::step(&mut packet.inner);
    let outer = &mut packet.outer;
    // The neighbour's and the device's MAC are filled in by the kernel.
    outer.eth.ether_type = ETHER_IPV4;
    outer.ip = *ip;
    outer.udp = UdpHdr {
        src: port.to_be_bytes(),
        dst: config.port_be,
        len: udp_len.to_be_bytes(),
        // None: allowed over IPv4 (RFC 768), and what RFC 7348 asks for.
        check: [0; 2],
    };
    outer.vxlan = Vxlan::new(config.vni);
    put_mac(&mut outer.inner_eth.dst_addr, &to.mac);
    put_mac(&mut outer.inner_eth.src_addr, &config.mac);
    outer.inner_eth.ether_type = ETHER_IPV4;
    Ok(())
}

/// The checksum of a header without options whose checksum field is zero, as it stands in the header: the sum of all its words
/// of 16 bits, in whichever byte order, and so of 32 (RFC 1071, section 2).
#[inline(always)]
fn checksum(ip: &Ipv4Hdr) -> [u8; 2] {
    // SAFETY: the header is 20 bytes without padding.
    let [a, b, c, d, e] = unsafe { core::mem::transmute::<Ipv4Hdr, [u32; 5]>(*ip) };
    let sum = a as u64 + b as u64 + c as u64 + d as u64 + e as u64;
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfcs_example() {
        // A header that is widely used as an example; its checksum is 0xb861.
        let ip = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: [0x00, 0x73],
            id: [0, 0],
            frags: [0x40, 0],
            ttl: 64,
            proto: 17,
            check: [0; 2],
            src_addr: [192, 168, 0, 1],
            dst_addr: [192, 168, 0, 199],
        };
        assert_eq!(checksum(&ip), [0xb8, 0x61]);
    }
}
