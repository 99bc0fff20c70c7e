//! What must become of a packet: the flow table and the order of judging, written down once more from docs/ARCHITECTURE.md, slowly
//! and without a single map.
//!
//! In: a [`World`] and packets, one after the other. Out: a [`Fate`] for each. Never: code of the programs.

mod parse;
mod services;

use std::{collections::BTreeMap, net::Ipv4Addr};

use margay_maps::{FlowKey, Hook, overlay};

use self::parse::{About, Frame, Ip, Transport};
pub use self::services::Chosen;
use super::{
    mutate::GATEWAY,
    readdress::{Change, Kind},
    world::World,
};
use crate::golden::world::{NODE, OTHER_NODE, POD, REMOTE};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// Both ends, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The one.
    pub low: End,
    /// The other.
    pub high: End,
    /// The protocol.
    pub protocol: u8,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    EgressDenied,
    IngressDenied,
    Unknown,
    /// No flow, but the first step to one: from a Service's client to a backend.
    Translated,
}

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub verdict: Verdict,
    /// 0: the lower end.
    pub opener: u32,
    /// A FIN or an RST has passed.
    pub closed: bool,
    pub by_host: bool,
    /// The verdict, or the choice, holds under what is in force.
    pub current: bool,
    /// The Service by which the opener knows the other end; of a choice, the backend.
    pub nat: Option<End>,
}

/// What tells the fragments of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FragmentId {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub id: u16,
    pub protocol: u8,
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Dropped.
    Drop,
    /// Passed on, and, if the program can, sent to where it goes.
    Pass,
    /// Left to others as it is; a redirection would be wrong.
    Leave,
    /// Left as it is, or dropped.
    DropOrLeave,
    /// Its sender is told that nobody is there; what cannot be answered is dropped.
    Reject,
    /// Not said: it is answered, not judged.
    Any,
    /// The programs have done what they must never do.
    Wrong(&'static str),
}

/// What must become of a packet, and what of its addresses if it passes.
pub type Judged = (Fate, Option<Change>);

/// The node.
#[derive(Clone, Debug)]
pub struct Model {
    world: World,
    flows: BTreeMap<Key, Entry>,
    fragments: BTreeMap<FragmentId, (u16, u16)>,
}

/// A packet's place in the flow table.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: Key,
    half: u32,
    opens: bool,
    stateless: bool,
    error: bool,
    flags: u8,
    /// It was for this Service, and has been led to a backend.
    nat: Option<End>,
    /// It is an ICMP error about this packet, of no flow that is allowed.
    other: Option<About>,
}

/// Who brings a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Workload,
    Overlay,
    Host,
}

/// Clients have ports from here on (`ip_local_port_range`).
const FIRST_CLIENT_PORT: u16 = 32_768;

/// FIN and RST.
const CLOSES: u8 = 0x05;

// === impl End ===

impl End {
    fn of((ip, port): (Ipv4Addr, u16)) -> Self {
        Self { ip, port }
    }
}

// === impl Place ===

impl Place {
    fn of(key: Key, half: u32) -> Self {
        Self { key, half, opens: false, stateless: false, error: false, flags: 0, nat: None, other: None }
    }

    /// Whether it looks like a packet of a connection that the other end has opened: a denial says so, or both ports do.
    fn is_answer(&self, denied: Option<Entry>) -> bool {
        let goes_on = [6, 132].contains(&self.key.protocol) && !self.opens && !self.stateless && self.nat.is_none();
        let (from, to) = self.key.ends(self.half);
        let by_ports = from.port < FIRST_CLIENT_PORT && to.port >= FIRST_CLIENT_PORT;
        goes_on && denied.map_or(by_ports, |entry| entry.opener != self.half)
    }
}

// === impl Key ===

impl Key {
    /// And which half a packet from `a` to `b` belongs to.
    pub fn of(a: End, b: End, protocol: u8) -> (Self, u32) {
        if a <= b { (Self { low: a, high: b, protocol }, 0) } else { (Self { low: b, high: a, protocol }, 1) }
    }

    /// As the map has it.
    pub fn in_map(&self) -> FlowKey {
        let Self { low, high, protocol } = *self;
        FlowKey::between((low.ip.into(), low.port), (high.ip.into(), high.port), protocol)
    }

    /// Sender and receiver of a half.
    pub fn ends(&self, half: u32) -> (End, End) {
        if half == 0 { (self.low, self.high) } else { (self.high, self.low) }
    }
}

// === impl Model ===

impl Model {
    /// Begins with the world as it is found.
    pub fn new(world: &World) -> Self {
        Self { flows: world.flows.clone(), fragments: world.fragments.clone(), world: world.clone() }
    }

    /// What is remembered under another generation is judged again: everything, or what one of the pods has a part in.
    pub fn change(&mut self, world: &World) {
        let everything = self.world.generation != world.generation;
        let services = self.world.services.generation != world.services.generation;
        // Whom clients were led to the programs remember, and so does the model.
        let affinities = std::mem::take(&mut self.world.services.affinities);
        self.world = world.clone();
        self.world.services.affinities = affinities;
        for (key, entry) in &mut self.flows {
            if entry.verdict == Verdict::Translated {
                entry.current &= !services;
                continue;
            }
            let of_pod = [key.low, key.high].iter().any(|end| world.pods.contains_key(&end.ip));
            entry.current &= !everything && !of_pod;
        }
    }

    /// The flows that have been seen.
    pub fn flows(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.flows.iter()
    }

    /// The next packet. `chosen`: what the programs have made of it.
    pub fn judge(&mut self, hook: Hook, packet: &[u8], chosen: Chosen<'_>) -> Judged {
        let (fate, change) = match hook {
            Hook::FromWorkload => self.pod_sends(packet, chosen),
            Hook::FromUplink => self.machine_sends(packet),
            Hook::ToWorkload => self.stack_sends_to_pod(packet),
            Hook::ToOverlay => self.stack_sends_to_node(packet),
            // BPF_PROG_TEST_RUN gives no tunnel's data.
            Hook::FromOverlay => (Fate::Drop, None),
        };
        let cut_short = change.is_some_and(|change| change.apply(packet, parse::start(hook)).is_none());
        match (fate, change.map(|change| change.kind)) {
            (Fate::Pass, Some(Kind::Answer)) if cut_short && matches!(hook, Hook::FromWorkload | Hook::FromUplink) => {
                // Only what reaches the pod is readdressed.
                (Fate::DropOrLeave, None)
            }
            (Fate::Pass, Some(_)) if cut_short => (Fate::Drop, None),
            (Fate::Pass, _) => (fate, change),
            _ => (fate, None),
        }
    }

    fn pod_sends(&mut self, packet: &[u8], chosen: Chosen<'_>) -> Judged {
        match parse::frame(packet) {
            Frame::Arp => return (Fate::Any, None),
            Frame::Other => return (Fate::Drop, None),
            Frame::Ipv4 => {}
        }
        let Some((ip, place)) = self.read(packet, parse::start(Hook::FromWorkload)) else { return (Fate::Drop, None) };
        let own = |ip| self.world.pods.get(&ip) == Some(&true);
        let (src, _) = place.key.ends(place.half);
        if (place.error && !own(ip.src)) || !own(src.ip) {
            return (Fate::Drop, None);
        }
        let place = match self.lead(&ip, place, chosen) {
            Ok(place) => place,
            Err(fate) => return (fate, None),
        };
        let (_, dst) = place.key.ends(place.half);
        if !forwardable(dst.ip) {
            return (Fate::Drop, None);
        }
        let (fate, change) = self.follow(&place, By::Workload);
        let to_node = !self.world.pods.contains_key(&dst.ip) && self.remote(dst.ip);
        // The flow is remembered, but there is no device yet.
        if fate == Fate::Pass && to_node && !self.world.configured { (Fate::Drop, None) } else { (fate, change) }
    }

    fn machine_sends(&mut self, packet: &[u8]) -> Judged {
        if !self.world.configured || !self.world.own_decap {
            return (Fate::Leave, None);
        }
        let Some(sender) = parse::vxlan(packet) else { return (Fate::Leave, None) };
        let Some(ip) = parse::ip(packet, parse::INNER) else { return (Fate::Drop, None) };
        if ip.header != 20 || ip.ttl < 2 {
            return (Fate::Leave, None);
        }
        let Some((_, place)) = self.read(packet, parse::INNER) else { return (Fate::Drop, None) };
        if !(sender == OTHER_NODE && self.world.other_node) {
            return (Fate::Drop, None);
        }
        self.follow(&place, By::Overlay)
    }

    fn stack_sends_to_pod(&mut self, packet: &[u8]) -> Judged {
        match parse::frame(packet) {
            Frame::Arp => return (Fate::Leave, None),
            Frame::Other => return (Fate::Drop, None),
            Frame::Ipv4 => {}
        }
        let Some((_, place)) = self.read(packet, parse::PLAIN) else { return (Fate::Drop, None) };
        self.follow(&place, By::Host)
    }

    fn stack_sends_to_node(&mut self, packet: &[u8]) -> Judged {
        let Some(ip) = parse::ip(packet, parse::PLAIN) else { return (Fate::Drop, None) };
        if !self.world.configured || parse::frame(packet) != Frame::Ipv4 || !self.remote(ip.dst) {
            return (Fate::Drop, None);
        }
        if !self.world.pods.contains_key(&ip.src) {
            return (Fate::Pass, None);
        }
        let Some((_, place)) = self.read(packet, parse::PLAIN) else { return (Fate::Drop, None) };
        self.follow(&place, By::Host)
    }

    /// The packet's place; `None`: its headers do not hold together.
    fn read(&mut self, packet: &[u8], at: usize) -> Option<(Ip, Place)> {
        let ip = parse::ip(packet, at)?;
        let id = FragmentId { src: ip.src, dst: ip.dst, id: ip.id, protocol: ip.protocol };
        let place = |ports: (u16, u16)| {
            let (src, dst) = (End { ip: ip.src, port: ports.0 }, End { ip: ip.dst, port: ports.1 });
            let (key, half) = Key::of(src, dst, ip.protocol);
            Place::of(key, half)
        };
        if ip.offset != 0 {
            let first = self.fragments.get(&id);
            let stateless = first.is_none();
            return Some((ip, Place { stateless, ..place(first.copied().unwrap_or_default()) }));
        }
        let (ports, place) = match parse::transport(packet, at, &ip)? {
            Transport::Ports { src, dst, opens, flags } => ((src, dst), Place { opens, flags, ..place((src, dst)) }),
            Transport::None => ((0, 0), place((0, 0))),
            Transport::Error(about) => match self.about(&about) {
                Some(error) => return Some((ip, error)),
                None => ((0, 0), Place { stateless: true, other: Some(about), ..place((0, 0)) }),
            },
            Transport::BadError => ((0, 0), Place { stateless: true, ..place((0, 0)) }),
        };
        if ip.more {
            self.fragments.insert(id, ports);
        }
        Some((ip, place))
    }

    /// The place of an ICMP error, if it is about an allowed flow: that of an answer.
    fn about(&self, about: &parse::About) -> Option<Place> {
        let (key, half) = Key::of(End::of(about.src), End::of(about.dst), about.protocol);
        let allowed = self.flows.get(&key).is_some_and(|entry| entry.verdict == Verdict::Allowed);
        allowed.then_some(Place { stateless: true, error: true, ..Place::of(key, 1 - half) })
    }

    fn follow(&mut self, place: &Place, by: By) -> Judged {
        let Place { key, half, opens, stateless, error, flags, .. } = *place;
        // What no ports are known of is no packet of a flow.
        let entry = self.flows.get(&key).copied().filter(|_| !stateless || error);
        let denied = entry.filter(|entry| matches!(entry.verdict, Verdict::EgressDenied | Verdict::IngressDenied));
        if !stateless && by != By::Host && denied.is_some_and(|entry| entry.current && entry.opener == half) {
            if let Some(entry) = self.flows.get_mut(&key) {
                entry.closed |= flags & CLOSES != 0;
            }
            return (Fate::Drop, None);
        }
        let allowed = entry.filter(|entry| entry.verdict == Verdict::Allowed);
        // An opening by the other end, or of what is closed, is a new flow.
        let mut others = allowed.is_some_and(|entry| entry.opener != half);
        let known = allowed.filter(|entry| !opens || (!others && !entry.closed));
        let by_host = by == By::Host;
        let closed = denied.is_some_and(|entry| !opens && entry.opener == half && entry.closed);
        let fresh = Entry { verdict: Verdict::Unknown, opener: half, closed, by_host, current: false, nat: None };
        let mut now = known.unwrap_or(fresh);
        if by_host && !others {
            now.nat = allowed.and_then(|entry| entry.nat);
        }
        if by == By::Workload && now.opener == half {
            now.nat = place.nat;
        }
        if let Some(fate) = self.way(place, by, now.nat) {
            return (fate, None);
        }
        let change = place.change(now.opener, now.nat);
        if error && allowed.is_some() {
            return (Fate::Pass, change);
        }
        if !now.current {
            now = Entry { verdict: self.verdict(&key, &now), current: true, ..now };
            if known.is_none() && place.is_answer(denied) {
                others = now.verdict != Verdict::Allowed;
                if !others {
                    now = Entry { opener: 1 - half, by_host: false, ..now };
                    now.verdict = self.verdict(&key, &now);
                    others = denied.is_some() && now.verdict != Verdict::Allowed;
                }
            }
        }
        let passes = now.verdict == Verdict::Allowed;
        now.closed |= passes && flags & CLOSES != 0;
        if !stateless && (passes || !others) {
            self.flows.insert(key, now);
        }
        if passes { (Fate::Pass, change) } else { (Fate::Drop, None) }
    }

    /// Why there is no way, if there is none.
    fn way(&self, place: &Place, by: By, nat: Option<End>) -> Option<Fate> {
        let (src, dst) = place.key.ends(place.half);
        // What answers a pod that has reached itself goes back to itself.
        let to = if is_hairpin(dst, nat) { src } else { dst };
        let here = self.world.pods.contains_key(&to.ip);
        match by {
            By::Host => None,
            _ if here => None,
            By::Overlay => Some(Fate::Leave),
            By::Workload => {
                let host = to.ip == NODE && self.world.host;
                let own_block = to.ip.octets()[..3] == POD.octets()[..3];
                let other_pod = self.remote(to.ip) && to.ip != OTHER_NODE;
                let forges = place.key.protocol == 17 && !place.error && dst.port == overlay::PORT;
                ((own_block && !host) || (!other_pod && forges)).then_some(Fate::Drop)
            }
        }
    }

    /// Whether a route leads to another node.
    fn remote(&self, ip: Ipv4Addr) -> bool {
        self.world.remote_route && (ip == OTHER_NODE || ip.octets()[..3] == REMOTE.octets()[..3])
    }

    /// What policies say, in the direction in which the flow was opened.
    fn verdict(&self, key: &Key, entry: &Entry) -> Verdict {
        let (from, to) = key.ends(entry.opener);
        let from = if is_hairpin(from, entry.nat) { to } else { from };
        let lets = |rules: Option<&Vec<super::world::Allow>>, other: Ipv4Addr| {
            let identity = self.world.identities.get(&other).copied().unwrap_or_default();
            rules.is_none_or(|rules| rules.iter().any(|rule| rule.matches(identity, key.protocol, to.port)))
        };
        let egress = self.world.policies.get(&from.ip).and_then(|policies| policies.egress.as_ref());
        let ingress = self.world.policies.get(&to.ip).and_then(|policies| policies.ingress.as_ref());
        if from.ip == to.ip {
            Verdict::Allowed
        } else if !lets(egress, to.ip) {
            Verdict::EgressDenied
        } else if !entry.by_host && !lets(ingress, from.ip) {
            Verdict::IngressDenied
        } else {
            Verdict::Allowed
        }
    }
}

/// Whether this end is a pod that has reached itself through a Service, by the name that it has then.
fn is_hairpin(end: End, nat: Option<End>) -> bool {
    end.ip == GATEWAY && nat.is_some()
}

/// Whether a router may forward to it (RFC 1812, section 5.3.7).
fn forwardable(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first < 224 && first != 127 && first != 0
}
