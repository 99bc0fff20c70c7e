//! Packets that go on with what is known: chance alone meets few flows a second time.
//!
//! In: a flow that the model knows. Out: what one of its ends sends next, or says by ICMP about what it got. Never: a packet that its
//! sender could not have sent, as far as addresses go.

use std::net::Ipv4Addr;

use margay_maps::{Hook, Mac, protocol::SCTP};

use super::{
    dice::Dice,
    model::{End, Entry, Key, Verdict},
    mutate::{GATEWAY, Input},
};
use crate::{
    golden::{
        transport::{self, ACK, FIN, ICMP, Ip, RST, SYN, TCP, UDP},
        world::{NEIGHBOUR, POD, POD_MAC},
    },
    probe::packet::{ETH_IPV4, ethernet},
};

/// The next packet of one of these flows; `None` if there are none.
pub fn next<'a>(flows: impl Iterator<Item = (&'a Key, &'a Entry)>, dice: &mut Dice) -> Option<Input> {
    // As many numbers whatever the flows are: what the programs choose by chance of their own must not change what comes after.
    let (which, half, flags, chunk) = (dice.number(), dice.below(2) as u32, dice.below(6), dice.below(3));
    let (is_error, by_stack) = (dice.once_in(4), dice.once_in(3));
    let flows: Vec<_> = flows.collect();
    let (key, entry) = flows.get(which as usize % flows.len().max(1))?;
    let packet = |from: End, to: End| {
        let (from, to) = ((from.ip, from.port), (to.ip, to.port));
        match key.protocol {
            TCP => transport::tcp(from, to, [SYN, ACK, ACK, SYN | ACK, FIN | ACK, RST][flags]),
            UDP => transport::datagram(from, to),
            SCTP => transport::sctp(from, to, chunk as u8),
            ICMP => transport::echo(from.0, to.0, half == entry.opener, from.1),
            other => transport::ip(from.0, to.0, other, vec![0xab; 24]),
        }
    };
    let (from, to) = key.ends(half);
    let is_question = half == entry.opener;
    // The opener knows the other end by the Service's name, and itself by its own.
    let (from, to) = match entry.nat.filter(|_| entry.verdict != Verdict::Translated && is_question != is_error) {
        Some(service) if is_question => (if from.ip == GATEWAY { End { ip: to.ip, ..from } } else { from }, service),
        Some(service) => (service, if to.ip == GATEWAY { End { ip: from.ip, ..to } } else { to }),
        None => (from, to),
    };
    let packet = packet(from, to);
    if is_error {
        return Some(framed(to.ip, by_stack, &transport::unreachable(to.ip, &packet, 8)));
    }
    Some(framed(from.ip, by_stack, &packet))
}

/// The frame, and the program that it reaches.
fn framed(from: Ipv4Addr, by_stack: bool, packet: &Ip) -> Input {
    if [POD, NEIGHBOUR].contains(&from) {
        return Input { hook: Hook::FromWorkload, packet: packet.from_pod() };
    }
    if by_stack {
        return Input { hook: Hook::ToWorkload, packet: ethernet(POD_MAC, Mac::GATEWAY, ETH_IPV4, &packet.bytes()) };
    }
    Input { hook: Hook::FromUplink, packet: packet.from_node() }
}
