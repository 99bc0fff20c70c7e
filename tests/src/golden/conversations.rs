//! Conversations under policies: packets one after the other over an empty flow table, what becomes of each.
//!
//! In: the golden [`world`](super::world) and [`Policies`] of its pod. Out: all of them. Never: a packet whose fate hangs on another conversation.

use std::net::Ipv4Addr;

use margay_maps::{DropReason, Hook, Outcome};

use super::{
    Case, Expect, expect,
    policies::{Allow, Peer, Policies},
    transport::{
        ACK, FIN, Ip, RST, SCTP_DATA, SCTP_INIT, SCTP_INIT_ACK, SYN, TCP, UDP, datagram, echo, icmp, sctp, tcp,
        too_big, unreachable,
    },
    world::{NEIGHBOUR, NODE, POD, REMOTE, STRANGER, WORLD},
};
use margay_maps::protocol::SCTP;

/// Steps one after the other.
pub struct Conversation {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// What happens.
    pub steps: Vec<Step>,
}

/// What happens next.
pub enum Step {
    /// Other policies are put in force: the pod's, and its neighbour's.
    Policies(Policies, Policies),
    /// A packet comes.
    Packet(Case),
}

const DNS: u16 = 53;
const WEB: u16 = 80;
const CLIENT: u16 = 40_000;
/// A router on the way.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

const FREE: Policies = Policies { ingress: None, egress: None };
const NOTHING: Option<&[Allow]> = Some(&[]);
/// Nobody may come in, and it may go wherever it likes.
const SHUT: Policies = Policies { ingress: NOTHING, egress: None };

const fn allow(peer: Peer, protocol: u8, port: Option<u16>) -> Allow {
    Allow { peer, protocol: Some(protocol), port }
}

const REMOTE_WEB: &[Allow] = &[allow(Peer::Remote, TCP, Some(WEB))];
const REMOTE_DNS: &[Allow] = &[allow(Peer::Remote, UDP, Some(DNS))];
const REMOTE_SCTP: &[Allow] = &[allow(Peer::Remote, SCTP, Some(WEB))];
const ANY_UDP: &[Allow] = &[allow(Peer::Anyone, UDP, None)];
const WORLD_WEB: &[Allow] = &[allow(Peer::World, TCP, Some(WEB))];
const REMOTE_TCP: &[Allow] = &[allow(Peer::Remote, TCP, None)];
const ANY_WEB: &[Allow] = &[allow(Peer::Anyone, TCP, Some(WEB))];
const ALL_OF_REMOTE: &[Allow] = &[Allow { peer: Peer::Remote, protocol: None, port: None }];

/// A server: others may come in by `ingress`, it may open nothing.
const fn server(ingress: &'static [Allow]) -> Policies {
    Policies { ingress: Some(ingress), egress: NOTHING }
}

/// A client: it may go out by `egress`, nobody may come in.
const fn client(egress: &'static [Allow]) -> Policies {
    Policies { ingress: NOTHING, egress: Some(egress) }
}

fn policies(pod: Policies) -> Step {
    Step::Policies(pod, FREE)
}

/// It gets through: into the pod, to the other node, or up the stack.
fn passes(name: &'static str, packet: Ip) -> Step {
    let (hook, packet) = packet.frame();
    let to_node = || Expect::Redirect(Outcome::Encapsulated, expect::encapsulated);
    let expect = match hook {
        Hook::FromUplink => Expect::Redirect(Outcome::Delivered, expect::decapsulated_for_pod),
        Hook::FromWorkload if packet[30..34] == NEIGHBOUR.octets() => {
            Expect::Redirect(Outcome::Delivered, expect::delivered_to_neighbour)
        }
        Hook::FromWorkload if packet[30..34] == REMOTE.octets() => to_node(),
        _ => Expect::Pass,
    };
    Step::Packet(Case { name, hook, packet, expect })
}

fn drops(name: &'static str, packet: Ip, reason: DropReason) -> Step {
    let (hook, packet) = packet.frame();
    Step::Packet(Case { name, hook, packet, expect: Expect::Drop(reason) })
}

fn not_in(name: &'static str, packet: Ip) -> Step {
    drops(name, packet, DropReason::IngressDenied)
}

fn not_out(name: &'static str, packet: Ip) -> Step {
    drops(name, packet, DropReason::EgressDenied)
}

/// Over the overlay, from an address that is no node's.
fn from_stranger(name: &'static str, packet: Ip) -> Step {
    let expect = Expect::Drop(DropReason::UnknownNode);
    Step::Packet(Case { name, hook: Hook::FromUplink, packet: packet.from_node_at(STRANGER), expect })
}

/// A segment to the pod's web server.
fn request(flags: u8) -> Ip {
    tcp((REMOTE, CLIENT), (POD, WEB), flags)
}

/// And back.
fn answer(flags: u8) -> Ip {
    tcp((POD, WEB), (REMOTE, CLIENT), flags)
}

fn query() -> Ip {
    datagram((POD, CLIENT), (REMOTE, DNS))
}

/// All of them.
pub fn conversations() -> Vec<Conversation> {
    let all = [
        tcp_and_policies(),
        tcp_in_the_middle(),
        datagrams(),
        icmp_errors(),
        echoes(),
        fragments(),
        associations(),
        others(),
    ];
    all.into_iter().flatten().collect()
}

fn conversation(name: &'static str, steps: Vec<Step>) -> Conversation {
    Conversation { name, steps }
}

fn tcp_and_policies() -> Vec<Conversation> {
    vec![
        conversation(
            "a server answers and opens nothing",
            vec![
                policies(server(REMOTE_WEB)),
                not_out("an answer before the question", answer(SYN | ACK)),
                passes("the question", request(SYN)),
                passes("the answer", answer(SYN | ACK)),
                passes("and on", request(ACK)),
                not_in("another port", tcp((REMOTE, CLIENT), (POD, WEB + 1), SYN)),
                not_in("another port, again", tcp((REMOTE, CLIENT), (POD, WEB + 1), SYN)),
                not_in("another protocol", datagram((REMOTE, CLIENT), (POD, WEB))),
                not_in("somebody else", tcp((WORLD, CLIENT), (POD, WEB), SYN)),
                not_out("the server opens something", tcp((POD, CLIENT), (REMOTE, WEB), SYN)),
                not_out("the server opens with the ports of the answer", answer(SYN)),
                passes("which has not ended the connection", answer(ACK)),
            ],
        ),
        conversation(
            "a revoked permission cuts a connection, both ways, and a granted one mends it",
            vec![
                policies(server(REMOTE_WEB)),
                passes("SYN", request(SYN)),
                passes("SYN, ACK", answer(SYN | ACK)),
                policies(server(REMOTE_DNS)),
                drops("the answer, judged as what it answers", answer(ACK), DropReason::IngressDenied),
                not_in("the question", request(ACK)),
                policies(server(REMOTE_WEB)),
                passes("the question again", request(ACK)),
                passes("the answer again", answer(ACK)),
            ],
        ),
        conversation(
            "after a change that keeps the permission the answer may come first",
            vec![
                policies(server(REMOTE_WEB)),
                passes("SYN", request(SYN)),
                policies(server(REMOTE_TCP)),
                passes("the answer", answer(SYN | ACK)),
                passes("and on", request(ACK)),
            ],
        ),
        conversation(
            "a closed connection is no way in for the other end",
            vec![
                policies(server(REMOTE_WEB)),
                passes("SYN", request(SYN)),
                passes("SYN, ACK", answer(SYN | ACK)),
                passes("FIN", request(FIN | ACK)),
                passes("FIN back", answer(FIN | ACK)),
                not_out("a SYN of the server", answer(SYN)),
                passes("the ports are used again", request(SYN)),
                passes("RST", answer(RST)),
                passes("and again", request(SYN)),
            ],
        ),
        conversation(
            "a denial is not for ever",
            vec![
                policies(server(&[])),
                not_in("SYN", request(SYN)),
                not_in("SYN again", request(SYN)),
                policies(server(REMOTE_WEB)),
                passes("SYN, allowed", request(SYN)),
                passes("SYN, ACK", answer(SYN | ACK)),
            ],
        ),
    ]
}

fn tcp_in_the_middle() -> Vec<Conversation> {
    vec![
        conversation(
            "a connection that nobody knows goes on when the end speaks that may open it",
            vec![
                policies(server(REMOTE_WEB)),
                not_out("the server's segment", answer(ACK)),
                passes("the client's segment", request(ACK)),
                passes("the server's, sent again", answer(ACK)),
            ],
        ),
        conversation(
            "a connection that nobody knows and nobody may open stays cut",
            vec![
                policies(Policies::DENY_ALL),
                not_out("the server's segment", answer(ACK)),
                not_in("the client's segment", request(ACK)),
                not_out("the server's, sent again", answer(ACK)),
                not_in("a reset", request(RST)),
                not_in("half an opening", request(SYN | ACK)),
            ],
        ),
        conversation(
            "a server that may open connections does not take up again what is revoked",
            vec![
                policies(FREE),
                passes("SYN", request(SYN)),
                passes("SYN, ACK", answer(SYN | ACK)),
                policies(SHUT),
                not_in("the client's segment", request(ACK)),
                drops("what the server sends again", answer(ACK), DropReason::IngressDenied),
                not_in("the client's segment again", request(ACK)),
                passes("a connection of the server's own, with these ports", answer(SYN)),
                passes("and its answer", request(SYN | ACK)),
            ],
        ),
        conversation(
            "nor does it when nobody knows the connection any more",
            vec![
                policies(SHUT),
                drops("what the server sends again", answer(ACK), DropReason::IngressDenied),
                not_in("the client's segment", request(ACK)),
                policies(Policies { ingress: Some(REMOTE_WEB), egress: None }),
                passes("what the server sends again, allowed", answer(ACK)),
                passes("the client's segment, allowed", request(ACK)),
            ],
        ),
        conversation(
            "who is no node has no part in what a denial remembers",
            vec![
                policies(SHUT),
                not_in("SYN", request(SYN)),
                from_stranger("a FIN in the client's name", request(FIN | ACK)),
                not_in("the client's segment", request(ACK)),
            ],
        ),
        conversation(
            "what a denial remembers outweighs ports",
            vec![
                policies(SHUT),
                not_in("a client with a low port", tcp((REMOTE, WEB), (POD, CLIENT), SYN)),
                drops("the server's segment", tcp((POD, CLIENT), (REMOTE, WEB), ACK), DropReason::IngressDenied),
            ],
        ),
    ]
}

fn datagrams() -> Vec<Conversation> {
    let reply = || datagram((REMOTE, DNS), (POD, CLIENT));
    vec![
        conversation(
            "a client gets answers and nothing else",
            vec![
                policies(client(REMOTE_DNS)),
                not_in("an answer before the question", reply()),
                passes("the question", query()),
                passes("the answer", reply()),
                passes("a second answer", reply()),
                not_in("to another port", datagram((REMOTE, DNS), (POD, CLIENT + 1))),
                not_in("from another port", datagram((REMOTE, DNS + 1), (POD, CLIENT))),
                not_out("to another port", datagram((POD, CLIENT), (REMOTE, DNS + 1))),
            ],
        ),
        conversation(
            "both ends must allow",
            vec![
                Step::Policies(FREE, Policies::DENY_ALL),
                not_in("into the neighbour", datagram((POD, CLIENT), (NEIGHBOUR, DNS))),
                Step::Policies(client(&[]), FREE),
                not_out("out of the pod", datagram((POD, CLIENT), (NEIGHBOUR, DNS))),
                Step::Policies(client(ANY_UDP), Policies { ingress: None, egress: NOTHING }),
                passes("what both allow", datagram((POD, CLIENT), (NEIGHBOUR, DNS))),
                Step::Policies(client(ANY_UDP), Policies::DENY_ALL),
                not_in("the neighbour, which allows it no more", datagram((POD, CLIENT), (NEIGHBOUR, DNS))),
            ],
        ),
    ]
}

fn icmp_errors() -> Vec<Conversation> {
    vec![
        conversation(
            "errors reach the end of an allowed flow that they are about",
            vec![
                policies(client(REMOTE_DNS)),
                not_in("before there is a flow", unreachable(REMOTE, &query(), 8)),
                passes("the question", query()),
                passes("port unreachable", unreachable(REMOTE, &query(), 8)),
                passes("too big, from a router", too_big(ROUTER, &query())),
                not_in(
                    "about a flow that there is not",
                    unreachable(REMOTE, &datagram((POD, CLIENT), (REMOTE, WEB)), 8),
                ),
                not_in("about somebody else's packet", about_others()),
                not_in("too short to say what about", unreachable(REMOTE, &query(), 4)),
                not_in("that is no error", icmp(REMOTE, POD, [5, 1], &[0; 28])),
                policies(client(&[])),
                not_out("the flow, revoked", query()),
                not_in("and what is about it", unreachable(REMOTE, &query(), 8)),
            ],
        ),
        conversation(
            "errors leave the pod that an allowed flow came to",
            vec![
                policies(server(REMOTE_DNS)),
                passes("the question", datagram((REMOTE, CLIENT), (POD, DNS))),
                passes("port unreachable", unreachable(POD, &datagram((REMOTE, CLIENT), (POD, DNS)), 8)),
                not_out(
                    "about a question that never came",
                    unreachable(POD, &datagram((REMOTE, CLIENT), (POD, WEB)), 8),
                ),
                drops(
                    "in another's name",
                    unreachable(NEIGHBOUR, &datagram((REMOTE, CLIENT), (POD, DNS)), 8),
                    DropReason::SpoofedSource,
                ),
            ],
        ),
    ]
}

/// An error to the pod, about a packet that the neighbour sent.
fn about_others() -> Ip {
    let inner = datagram((NEIGHBOUR, CLIENT), (REMOTE, DNS)).bytes();
    icmp(REMOTE, POD, [3, 3], &[&[0; 4][..], &inner[..28]].concat())
}

fn echoes() -> Vec<Conversation> {
    vec![
        conversation(
            "no rule with a protocol lets an echo in",
            vec![policies(server(REMOTE_WEB)), not_in("a request", echo(REMOTE, POD, true, 7))],
        ),
        conversation(
            "a rule for everything lets an echo in, and its answer out",
            vec![
                policies(server(ALL_OF_REMOTE)),
                not_out("an answer before the question", echo(POD, REMOTE, false, 7)),
                passes("a request", echo(REMOTE, POD, true, 7)),
                passes("its answer", echo(POD, REMOTE, false, 7)),
                not_out("a request of the pod with the same identifier", echo(POD, REMOTE, true, 7)),
                not_out("an answer to another", echo(POD, REMOTE, false, 8)),
            ],
        ),
    ]
}

fn fragments() -> Vec<Conversation> {
    /// Behind the first 16 bytes: 8 of the header of UDP, 8 of data.
    const LATER: usize = 16;
    let whole = |port| datagram((REMOTE, CLIENT), (POD, port));
    let first = move |port, id| whole(port).part(id, 0, LATER);
    let later = move |port, id| whole(port).part(id, LATER, 8);
    let (dns, web) = (DNS, WEB);
    vec![
        conversation(
            "the first fragment says the ports of the others",
            vec![
                policies(server(REMOTE_DNS)),
                passes("the first", first(dns, 1)),
                passes("the second", later(dns, 1)),
                not_in("the first to another port", first(web, 2)),
                not_in("its second", later(web, 2)),
                passes("the second of the allowed one, again", later(dns, 1)),
            ],
        ),
        conversation(
            "a fragment that overtakes the first has no ports",
            vec![
                policies(server(REMOTE_DNS)),
                not_in("the second", later(dns, 3)),
                passes("the first", first(dns, 3)),
                passes("the second, again", later(dns, 3)),
                policies(server(ANY_UDP)),
                passes("the second of another, all ports allowed", later(web, 4)),
            ],
        ),
        conversation(
            "fragments of an answer",
            vec![
                policies(server(REMOTE_DNS)),
                passes("the question", whole(dns)),
                passes("the answer's first", datagram((POD, DNS), (REMOTE, CLIENT)).part(5, 0, LATER)),
                passes("its second", datagram((POD, DNS), (REMOTE, CLIENT)).part(5, LATER, 8)),
            ],
        ),
        conversation(
            "a first fragment too short for TCP's flags",
            vec![
                policies(server(REMOTE_WEB)),
                drops("8 bytes of it", request(SYN).part(6, 0, 8), DropReason::TruncatedTransport),
            ],
        ),
    ]
}

fn associations() -> Vec<Conversation> {
    let init = || sctp((REMOTE, CLIENT), (POD, WEB), SCTP_INIT);
    let back = |chunk| sctp((POD, WEB), (REMOTE, CLIENT), chunk);
    vec![conversation(
        "SCTP has ports and openings",
        vec![
            policies(server(REMOTE_SCTP)),
            not_out("an answer before the question", back(SCTP_INIT_ACK)),
            passes("INIT", init()),
            passes("INIT ACK", back(SCTP_INIT_ACK)),
            passes("DATA", sctp((REMOTE, CLIENT), (POD, WEB), SCTP_DATA)),
            passes("DATA back", back(SCTP_DATA)),
            not_out("an INIT of the server", back(SCTP_INIT)),
            not_in("another port", sctp((REMOTE, CLIENT), (POD, WEB + 1), SCTP_INIT)),
            not_in("TCP to the same port", request(SYN)),
            policies(SHUT),
            not_in("DATA, revoked", sctp((REMOTE, CLIENT), (POD, WEB), SCTP_DATA)),
            drops("DATA back, which the server may otherwise send", back(SCTP_DATA), DropReason::IngressDenied),
            not_in("DATA again", sctp((REMOTE, CLIENT), (POD, WEB), SCTP_DATA)),
        ],
    )]
}

fn others() -> Vec<Conversation> {
    vec![
        conversation(
            "the node reaches its own pod, and gets answers",
            vec![
                policies(Policies::DENY_ALL),
                not_out("an answer before the question", tcp((POD, WEB), (NODE, CLIENT), SYN | ACK)),
                passes("a probe", tcp((NODE, CLIENT), (POD, WEB), SYN)),
                passes("its answer", tcp((POD, WEB), (NODE, CLIENT), SYN | ACK)),
                not_out("something else to the node", tcp((POD, WEB), (NODE, CLIENT + 1), SYN)),
            ],
        ),
        conversation(
            "an ipBlock is a range of addresses",
            vec![
                policies(client(WORLD_WEB)),
                passes("inside it", tcp((POD, CLIENT), (WORLD, WEB), SYN)),
                not_out("inside, another port", tcp((POD, CLIENT), (WORLD, WEB + 1), SYN)),
                not_out("outside", tcp((POD, CLIENT), (REMOTE, WEB), SYN)),
            ],
        ),
        conversation(
            "a client opens, its server does not",
            vec![
                policies(client(ANY_WEB)),
                passes("SYN", tcp((POD, CLIENT), (REMOTE, WEB), SYN)),
                passes("SYN, ACK", tcp((REMOTE, WEB), (POD, CLIENT), SYN | ACK)),
                not_in("the server opens something", tcp((REMOTE, WEB), (POD, CLIENT), SYN)),
                passes("which has ended nothing", tcp((REMOTE, WEB), (POD, CLIENT), ACK)),
            ],
        ),
    ]
}
