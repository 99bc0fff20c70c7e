//! Packets that somebody might send: good ones, spoilt in places that matter and in places that do not.
//!
//! In: the golden packets. Out: one of them, changed up to a few times. Never: fewer bytes than BPF_PROG_TEST_RUN takes.

use std::net::Ipv4Addr;

use margay_maps::Hook;

use super::dice::Dice;
use crate::{
    golden::{
        self, Step,
        packet::checksum,
        transport::{datagram, tcp},
        world::{FACELESS, NEIGHBOUR, NOBODY, NODE, OTHER_NODE, POD, REMOTE, STRANGER, WORLD},
    },
    probe::packet::MORE_FRAGMENTS,
};

/// A packet and the program that it is for.
#[derive(Clone, Debug)]
pub struct Input {
    /// The program.
    pub hook: Hook,
    /// The frame.
    pub packet: Vec<u8>,
}

/// Addresses that mean something in the golden world.
pub const ADDRESSES: [Ipv4Addr; 14] = [
    POD,
    NEIGHBOUR,
    FACELESS,
    NOBODY,
    NODE,
    OTHER_NODE,
    REMOTE,
    STRANGER,
    WORLD,
    GATEWAY,
    SERVICES[0],
    SERVICES[1],
    SERVICES[2],
    SERVICES[3],
];
/// Services have these, at times.
pub const SERVICES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 96, 0, 1),
    Ipv4Addr::new(10, 96, 0, 2),
    Ipv4Addr::new(10, 96, 0, 3),
    Ipv4Addr::new(10, 96, 0, 5),
];
/// By this name a pod sees itself.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Ports that rules and flows have.
pub const PORTS: [u16; 9] = [0, 53, 80, 81, 4_789, 7_000, 8_080, 40_000, 65_535];
/// Protocols with and without ports.
pub const PROTOCOLS: [u8; 5] = [1, 6, 17, 47, 132];
/// How many bytes BPF_PROG_TEST_RUN wants of a packet that says it is IPv4, and of one that says it is IPv6.
const SHORTEST: usize = 34;
const SHORTEST_IPV6: usize = 54;
/// No more, so that the buffers hold what comes out.
const LONGEST: usize = 1_800;
/// Where the IPv4 header begins: of the packet, and of one in VXLAN.
const HEADERS: [usize; 2] = [14, 64];

/// Everything that mutation begins with.
pub fn corpus() -> Vec<Input> {
    let cases = golden::cases().into_iter();
    let steps = golden::conversations().into_iter().flat_map(|conversation| conversation.steps);
    let packets = steps.filter_map(|step| match step {
        Step::Packet(case) => Some(case),
        Step::Policies(..) => None,
    });
    let mut corpus: Vec<_> = cases.chain(packets).map(|case| Input { hook: case.hook, packet: case.packet }).collect();
    corpus.retain(|input| input.packet.len() >= SHORTEST);
    // The way from the node's stack to another node's pod, which no golden case takes to its end.
    for hook in [Hook::ToOverlay, Hook::ToWorkload] {
        for src in [NODE, POD] {
            corpus.push(Input { hook, packet: tcp((src, 80), (REMOTE, 40_000), 2).from_pod() });
            corpus.push(Input { hook, packet: datagram((src, 53), (REMOTE, 40_000)).from_pod() });
        }
    }
    corpus
}

/// The next packet: this one, or any of the corpus, as it is or changed.
pub fn next(corpus: &[Input], known: Option<Input>, dice: &mut Dice) -> Input {
    let any = &corpus[dice.below(corpus.len())];
    let mut input = known.unwrap_or_else(|| any.clone());
    // Half of them stay as they are: only those open flows that others can meet.
    for _ in 0..[0, 0, 0, 1, 1, 2, 4][dice.below(7)] {
        change(&mut input, dice);
    }
    let Input { hook, packet } = &mut input;
    let is_ipv6 = packet.get(12..14) == Some(&[0x86, 0xdd]);
    packet.resize(packet.len().clamp(if is_ipv6 { SHORTEST_IPV6 } else { SHORTEST }, LONGEST), 0);
    if dice.once_in(20) {
        *hook = dice.pick(&Hook::ALL);
    }
    // Or nearly all would fall for their checksum in a real receiver; the programs do not look.
    if !dice.once_in(4) {
        HEADERS.iter().for_each(|at| mend(packet, *at));
    }
    input
}

fn change(input: &mut Input, dice: &mut Dice) {
    let Input { hook, packet } = input;
    let at = if *hook == Hook::FromUplink && !dice.once_in(4) { HEADERS[1] } else { HEADERS[0] };
    let header = packet.get(at).map_or(20, |first| usize::from(first & 0x0f) * 4);
    match dice.below(14) {
        0 => write(packet, dice.below(1_000), &[dice.byte()]),
        1 => flip(packet, dice),
        2 => packet.truncate(dice.below(packet.len() + 1)),
        3 => packet.extend(vec![dice.byte(); dice.below(64)]),
        4 => write(packet, at + 9, &[dice.pick(&PROTOCOLS)]),
        5 => write(packet, at + 12 + 4 * dice.below(2), &dice.pick(&ADDRESSES).octets()),
        6 => write(packet, at + header + 2 * dice.below(2), &dice.pick(&PORTS).to_be_bytes()),
        7 => write(packet, at + header + 13, &[dice.pick(&[1, 2, 4, 16, 17, 18, 20])]),
        8 => write(packet, at + 6, &fragment(dice).to_be_bytes()),
        9 => write(packet, at + 4, &(dice.below(4) as u16).to_be_bytes()),
        10 => write(packet, at + 8, &[dice.pick(&[0, 1, 2, 255])]),
        11 => write(packet, at, &[dice.pick(&[0x44, 0x46, 0x4f, 0x55, 0x60])]),
        12 => write(packet, at + 2, &(dice.below(200) as u16).to_be_bytes()),
        // ICMP's type; SCTP's chunk stands elsewhere.
        _ => write(packet, at + header + [0, 12][dice.below(2)], &[dice.pick(&[0, 1, 3, 5, 8, 11, 12, 13])]),
    }
}

/// Flags and offset.
fn fragment(dice: &mut Dice) -> u16 {
    let more = if dice.once_in(2) { MORE_FRAGMENTS } else { 0 };
    more | dice.pick(&[0, 0, 1, 2, 185, 0x4000])
}

fn flip(packet: &mut [u8], dice: &mut Dice) {
    let at = dice.below(packet.len().max(1));
    if let Some(byte) = packet.get_mut(at) {
        *byte ^= 1 << dice.below(8);
    }
}

/// As much of it as the packet has room for.
fn write(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Mends the checksum of the header that begins there, if there is one.
fn mend(packet: &mut [u8], at: usize) {
    let length = packet.get(at).map_or(0, |first| usize::from(first & 0x0f) * 4);
    if length < 20 || packet.len() < at + length {
        return;
    }
    packet[at + 10..at + 12].fill(0);
    let sum = checksum(&packet[at..at + length]);
    packet[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}
