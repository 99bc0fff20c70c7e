//! ARP from a pod: whatever it asks for, except its own address, is at the gateway's MAC (RFC 826, RFC 1027).

use aya_ebpf::helpers::bpf_redirect;
use margay_maps::{Addr, DropReason, Mac, Outcome};
use network_types::{arp::ArpHdr, eth::EthHdr};

use crate::{
    count::Verdict,
    lookup::{endpoint, is_own},
    packet::{Packet, put_mac},
};

/// Ethernet (RFC 826).
const HARDWARE_ETHERNET: [u8; 2] = [0, 1];
/// IPv4.
const PROTOCOL_IPV4: [u8; 2] = [8, 0];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Answers a request; passes the reply to a question of the host's stack on.
#[inline(always)]
pub fn from_workload(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let ifindex = packet.ifindex();
    if !packet.pull(EthHdr::LEN + ArpHdr::LEN) {
        return Err(DropReason::MalformedArp);
    }
    let Some(arp) = packet.at::<ArpHdr>(EthHdr::LEN) else { return Err(DropReason::MalformedArp) };
    let is_ipv4 = arp.htype == HARDWARE_ETHERNET && arp.ptype == PROTOCOL_IPV4 && arp.hlen == 6 && arp.plen == 4;
    if !is_ipv4 || (arp.oper != REQUEST && arp.oper != REPLY) {
        return Err(DropReason::MalformedArp);
    }
    let (oper, sha, spa, tpa) = (arp.oper, arp.sha, arp.spa, arp.tpa);

    // A probe has no sender address yet (RFC 5227, section 2.1.1).
    let is_probe = oper == REQUEST && spa == [0; 4];
    if !is_probe && !is_own(&Addr::from_v4(spa), ifindex) {
        return Err(DropReason::ArpSpoofed);
    }
    if oper == REPLY {
        return Ok(Verdict::PASS);
    }
    let target = Addr::from_v4(tpa);
    if matches!(endpoint(&target), Some(e) if e.ifindex == ifindex) || spa == tpa {
        return Err(DropReason::ArpForOwnAddress);
    }

    let Some(eth) = packet.at_mut::<EthHdr>(0) else { return Err(DropReason::MalformedArp) };
    put_mac(&mut eth.dst_addr, &Mac { bytes: sha });
    put_mac(&mut eth.src_addr, &Mac::GATEWAY);
    let Some(arp) = packet.at_mut::<ArpHdr>(EthHdr::LEN) else { return Err(DropReason::MalformedArp) };
    arp.oper = REPLY;
    put_mac(&mut arp.sha, &Mac::GATEWAY);
    arp.spa = tpa;
    put_mac(&mut arp.tha, &Mac { bytes: sha });
    arp.tpa = spa;
    // SAFETY: a plain call; out by the interface that it came in by.
    Ok(Verdict::redirect(Outcome::Answered, unsafe { bpf_redirect(ifindex, 0) }))
}
