//! What must have changed in a packet, and that nothing else did.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use margay_maps::{Mac, overlay};

use super::{
    packet::{IP, OVERHEAD, checksum},
    world::{NEIGHBOUR_MAC, NODE, OTHER_NODE, OTHER_OVERLAY_MAC, OVERLAY_MAC, POD_MAC},
};

/// For the pod next door: one hop less to live, from the gateway's MAC to the pod's.
pub fn delivered_to_neighbour(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, NEIGHBOUR_MAC)?;
    hopped(&before[IP..], &after[IP..])
}

/// Taken out of VXLAN and for the pod: the inner packet, one hop less to live.
pub fn decapsulated_for_pod(before: &[u8], after: &[u8]) -> Result<()> {
    addressed(after, Mac::GATEWAY, POD_MAC)?;
    hopped(&before[IP + OVERHEAD..], &after[IP..])
}

/// In VXLAN to the other node: the header as RFC 7348 has it, the inner packet with one hop less to live.
pub fn encapsulated(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after.len() == before.len() + OVERHEAD, "{} bytes became {}", before.len(), after.len());
    let sliced = SlicedPacket::from_ethernet(after).context("etherparse does not understand the outer packet")?;
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { anyhow::bail!("the outer packet is no IPv4") };
    let ip = ip.header();
    ensure!(checksum(ip.slice()) == 0, "the outer checksum is wrong");
    ensure!((ip.source_addr(), ip.destination_addr()) == (NODE, OTHER_NODE), "outer addresses {ip:?}");
    ensure!(ip.ttl() == 64 && !ip.dont_fragment(), "outer header {ip:?}");
    ensure!(ip.dcp().value() == 0, "the inner packet's DSCP went outside");
    ensure!(ip.ecn().value() == before[IP + 1] & 3, "the inner packet's ECN did not go outside");
    ensure!(usize::from(ip.total_len()) == after.len() - IP, "outer length {}", ip.total_len());
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { anyhow::bail!("the outer packet is no UDP") };
    ensure!(udp.destination_port() == overlay::PORT, "outer port {}", udp.destination_port());
    ensure!(udp.source_port() >= 49_152, "outer source port {}", udp.source_port());
    ensure!(udp.checksum() == 0 && usize::from(udp.length()) == after.len() - IP - 20, "outer UDP {udp:?}");
    let [_, a, b, c] = overlay::VNI.to_be_bytes();
    ensure!(udp.payload()[..8] == [8, 0, 0, 0, a, b, c, 0], "VXLAN header {:x?}", &udp.payload()[..8]);
    let inner = &udp.payload()[8..];
    addressed(inner, OVERLAY_MAC, OTHER_OVERLAY_MAC)?;
    hopped(&before[IP..], &inner[IP..])
}

/// An answer that the address asked for is at the gateway's MAC.
pub fn arp_answer(before: &[u8], after: &[u8]) -> Result<()> {
    addressed_as(after, Mac::GATEWAY, POD_MAC, [0x08, 0x06])?;
    ensure!(after[14..22] == [0, 1, 8, 0, 6, 4, 0, 2], "ARP header {:x?}", &after[14..22]);
    let asked = |at: usize| Ipv4Addr::new(before[at], before[at + 1], before[at + 2], before[at + 3]);
    let (sender, target) = (asked(28), asked(38));
    ensure!(after[22..28] == Mac::GATEWAY.bytes && after[28..32] == target.octets(), "sender {:x?}", &after[22..32]);
    ensure!(after[32..38] == POD_MAC.bytes && after[38..42] == sender.octets(), "target {:x?}", &after[32..42]);
    Ok(())
}

pub fn addressed(frame: &[u8], from: Mac, to: Mac) -> Result<()> {
    addressed_as(frame, from, to, [0x08, 0x00])
}

fn addressed_as(frame: &[u8], from: Mac, to: Mac, ether_type: [u8; 2]) -> Result<()> {
    ensure!(frame[..6] == to.bytes, "destination MAC {:x?} instead of {to}", &frame[..6]);
    ensure!(frame[6..12] == from.bytes, "source MAC {:x?} instead of {from}", &frame[6..12]);
    ensure!(frame[12..14] == ether_type, "Ethernet type {:x?}", &frame[12..14]);
    Ok(())
}

/// One less to live, the checksum right, nothing else changed. Both from their IPv4 header on.
fn hopped(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after[8] == before[8] - 1, "the time to live went from {} to {}", before[8], after[8]);
    let header_len = usize::from(after[0] & 0x0f) * 4;
    ensure!(checksum(&after[..header_len]) == 0, "the IPv4 checksum is wrong");
    let without = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[8] = 0;
        bytes[10..12].fill(0);
        bytes
    };
    let (before, after) = (without(before), without(after));
    ensure!(before == after, "more than the time to live changed: {}", first_difference(&before, &after));
    Ok(())
}

/// Where two packets differ first, in words.
pub fn first_difference(before: &[u8], after: &[u8]) -> String {
    if before.len() != after.len() {
        return format!("{} bytes became {}", before.len(), after.len());
    }
    match before.iter().zip(after).position(|(b, a)| b != a) {
        Some(at) => format!("byte {at} went from {:02x} to {:02x}", before[at], after[at]),
        None => "nothing".to_owned(),
    }
}
