//! VXLAN by hand (RFC 7348): the outer header in one piece, written and read.

use aya_ebpf::{
    bindings::bpf_redir_neigh,
    helpers::{bpf_get_prandom_u32, bpf_redirect, bpf_redirect_neigh},
};
use margay_maps::{
    Config, DropReason, Features, Half, Outcome, overlay,
    protocol::{TCP, UDP},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, udp::UdpHdr, vxlan::VxlanHdr};

use crate::{
    count::Verdict,
    ipv4::{ETHER_IPV4, Ipv4},
    packet::Packet,
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
    pub vxlan: VxlanHdr,
    /// Inner Ethernet.
    pub inner_eth: EthHdr,
}

/// What encapsulation adds behind the outer Ethernet header.
pub const OVERHEAD: u32 = overlay::OVERHEAD_V4;

const _: () = assert!(size_of::<Outer>() == EthHdr::LEN + OVERHEAD as usize);

/// The flag of a VXLAN header whose network identifier counts (RFC 7348, section 5).
pub const VXLAN_VNI_VALID: u8 = 0x08;

/// The time to live of the outer packet; what Linux gives its own tunnels' packets as well (`IPDEFTTL`).
const OUTER_TTL: u8 = 64;

/// The address family of a neighbour's IPv4 address (include/linux/socket.h).
const AF_INET: u32 = 2;

/// The first of the ports that RFC 7348, section 5, recommends as source ports: 49152 to 65535.
const FIRST_PORT: u16 = 0xc000;

/// "Congestion experienced" and the mask of its field (RFC 3168, section 5).
pub const ECN_CE: u8 = 0b11;

/// Whether the packet, or every segment that it will be cut into, fits into the overlay.
#[inline(always)]
pub fn fits(packet: &Packet, ip: &Ipv4, mtu: u32) -> bool {
    let len = packet.bytes() - EthHdr::LEN as u32;
    if len <= mtu {
        return true;
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
pub fn send(packet: &mut Packet, ip: &Ipv4, to: &Half, config: &Config) -> Result<Verdict, DropReason> {
    if !config.features.has(Features::OWN_ENCAP) {
        Ipv4::decrement_ttl(packet, EthHdr::LEN)?;
        // `to_overlay` does the rest there.
        // SAFETY: a plain call; out by the overlay device.
        return Ok(Verdict::redirect(Outcome::Encapsulated, unsafe { bpf_redirect(config.overlay_ifindex, 0) }));
    }
    let hash = packet.hash();
    Ipv4::decrement_ttl(packet, EthHdr::LEN)?;
    packet.grow(OVERHEAD, config.features.has(Features::ENCAP_L2_ETH))?;
    write(packet, ip.tos, hash, to, config)?;
    Ok(Verdict::redirect(Outcome::Encapsulated, hand_over(to)))
}

/// Hands the packet to the neighbour that the half names. Without one the kernel looks it up, for each packet.
#[inline(always)]
fn hand_over(to: &Half) -> i64 {
    if !to.next_hop.is_v4() {
        // SAFETY: a plain call.
        return unsafe { bpf_redirect_neigh(to.ifindex, core::ptr::null_mut(), 0, 0) };
    }
    // SAFETY: plain integers, for which zero is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET;
    neighbour.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(to.next_hop.v4());
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `neighbour` is as long as the size given.
    unsafe { bpf_redirect_neigh(to.ifindex, &raw mut neighbour, size, 0) }
}

/// Writes the header into the room that has been made for it.
#[inline(always)]
fn write(packet: &mut Packet, tos: u8, hash: u32, to: &Half, config: &Config) -> Result<(), DropReason> {
    let ip_len = (packet.bytes() - EthHdr::LEN as u32) as u16;
    // SAFETY: a plain call. Each outer packet has an identification of its own, so that a path which cuts it does
    // not mix up the pieces of two (RFC 6864, section 4.3).
    let id = unsafe { bpf_get_prandom_u32() } as u16;
    let (src, dst) = (config.node.v4(), to.node.v4());
    let mut ip = Ipv4Hdr {
        vihl: 0x45,
        // The inner packet's ECN field goes outside (RFC 6040, section 4.1), the rest of it does not.
        tos: tos & ECN_CE,
        tot_len: ip_len.to_be_bytes(),
        id: id.to_be_bytes(),
        frags: [0; 2],
        ttl: OUTER_TTL,
        proto: UDP,
        check: [0; 2],
        src_addr: src,
        dst_addr: dst,
    };
    ip.check = checksum(&ip).to_be_bytes();
    let port = FIRST_PORT | (hash ^ (hash >> 16)) as u16;
    let vni = config.vni.to_be_bytes();

    let Some(outer) = packet.at_mut::<Outer>(0) else { return Err(DropReason::RewriteFailed) };
    // The neighbour's and the device's MAC are filled in by the kernel.
    outer.eth.ether_type = ETHER_IPV4;
    outer.ip = ip;
    outer.udp = UdpHdr {
        src: port.to_be_bytes(),
        dst: config.port_be,
        len: (ip_len.wrapping_sub(Ipv4Hdr::LEN as u16)).to_be_bytes(),
        // None: allowed over IPv4 (RFC 768), and what RFC 7348 asks for.
        check: [0; 2],
    };
    outer.vxlan = VxlanHdr::with_flags(VXLAN_VNI_VALID, [vni[1], vni[2], vni[3]]);
    outer.inner_eth = EthHdr { dst_addr: to.mac.bytes, src_addr: config.mac.bytes, ether_type: ETHER_IPV4 };
    Ok(())
}

/// The checksum of a header without options whose checksum field is zero (RFC 1071).
#[inline(always)]
fn checksum(ip: &Ipv4Hdr) -> u16 {
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]) as u32;
    let pair = |bytes: [u8; 2]| u16::from_be_bytes(bytes) as u32;
    let quad = |b: [u8; 4]| word(b[0], b[1]) + word(b[2], b[3]);
    let sum = word(ip.vihl, ip.tos)
        + pair(ip.tot_len)
        + pair(ip.id)
        + pair(ip.frags)
        + word(ip.ttl, ip.proto)
        + quad(ip.src_addr)
        + quad(ip.dst_addr);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
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
        assert_eq!(checksum(&ip), 0xb861);
    }
}
