//! What the maps may hold when a packet comes: any state that the agent writes, or leaves half way, and whatever older entries of the
//! flow table say.
//!
//! In: chance. Out: a [`World`], in the maps and for the model. Never: bytes that are no value of a map's type, or a rule that no
//! NetworkPolicy comes to.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use margay_maps::{
    Config, Enforcement, Features, Flow, FlowVerdict, Fragment, FragmentKey, Half, Id, Mac, Opener, Rule, RuleKey, Way,
    user::Maps,
};

use super::{
    dice::Dice,
    model::{End, Entry, FragmentId, Key, Verdict},
    mutate::{ADDRESSES, PORTS, PROTOCOLS, SERVICES},
    services::{self, Services},
};
use crate::golden::{
    policies::clear,
    world::{
        self, FACELESS, NEIGHBOUR, NEIGHBOUR_IFINDEX, NEIGHBOUR_SLOT, NODE, OTHER_NODE, POD, POD_IFINDEX, POD_SLOT,
        REMOTE, WORLD,
    },
};

/// The first generation of routes and endpoints, and of every slot.
const GENERATION: u32 = 7;
/// The slot of the pod without a known MAC; see [`world::fill`].
const FACELESS_SLOT: u32 = 3;
const PODS: [(Ipv4Addr, u32); 3] = [(POD, POD_SLOT), (NEIGHBOUR, NEIGHBOUR_SLOT), (FACELESS, FACELESS_SLOT)];
/// Who has an identity at times.
const KNOWN: [Ipv4Addr; 5] = [REMOTE, NEIGHBOUR, POD, WORLD, NODE];

/// What a rule lets through.
#[derive(Clone, Copy, Debug)]
pub struct Allow {
    /// The other side's identity; 0: whoever.
    pub identity: u8,
    /// `None`: every protocol.
    pub protocol: Option<u8>,
    /// A port, and how many bits of it count.
    pub port: u16,
    /// 16: one port; 0: all of them.
    pub bits: u8,
}

/// The policies of one pod; `None`: not isolated.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// What may come in.
    pub ingress: Option<Vec<Allow>>,
    /// What may go out.
    pub egress: Option<Vec<Allow>>,
}

/// One state of a node.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The generation of routes and endpoints.
    pub generation: u32,
    /// The generation of every slot.
    pub slots: u32,
    /// The agent has made the overlay device.
    pub configured: bool,
    /// The programs take overlay headers off themselves.
    pub own_decap: bool,
    /// The other node is one of the cluster.
    pub other_node: bool,
    /// Pods here, by address: their interface is the one that packets come in by.
    pub pods: BTreeMap<Ipv4Addr, bool>,
    /// The other node's block has a route.
    pub remote_route: bool,
    /// The node's own address is in `endpoints`.
    pub host: bool,
    /// By the pod's address; there is none for a pod that is not here.
    pub policies: BTreeMap<Ipv4Addr, Policies>,
    /// Identities of addresses.
    pub identities: BTreeMap<Ipv4Addr, u8>,
    /// Services and their backends.
    pub services: Services,
    /// The flow table as it was found.
    pub flows: BTreeMap<Key, Entry>,
    /// First fragments that came before.
    pub fragments: BTreeMap<FragmentId, (u16, u16)>,
}

// === impl World ===

impl World {
    /// Any.
    pub fn any(dice: &mut Dice) -> Self {
        let mut world = Self {
            generation: GENERATION,
            slots: GENERATION,
            configured: !dice.once_in(20),
            own_decap: !dice.once_in(10),
            other_node: !dice.once_in(10),
            remote_route: !dice.once_in(10),
            host: !dice.once_in(10),
            services: Services::any(dice, GENERATION),
            ..Self::default()
        };
        for (pod, _) in PODS {
            if !dice.once_in(8) {
                world.pods.insert(pod, pod == POD || dice.once_in(10));
                world.policies.insert(pod, Policies { ingress: rules(dice), egress: rules(dice) });
            }
        }
        for ip in KNOWN {
            if !dice.once_in(3) {
                world.identities.insert(ip, 1 + dice.below(3) as u8);
            }
        }
        for _ in 0..dice.below(12) {
            let (key, entry) = if dice.once_in(3) { choice(dice, &world.services) } else { flow(dice) };
            let is_service = |end| world.services.has(end, key.protocol);
            // The agent sees to it that nothing else is remembered of a Service's address.
            if entry.verdict == Verdict::Translated || !(is_service(key.low) || is_service(key.high)) {
                world.flows.insert(key, entry);
            }
        }
        for _ in 0..dice.below(4) {
            let id = FragmentId {
                src: dice.pick(&ADDRESSES),
                dst: dice.pick(&ADDRESSES),
                id: dice.below(4) as u16,
                protocol: dice.pick(&PROTOCOLS),
            };
            world.fragments.insert(id, (dice.pick(&PORTS), dice.pick(&PORTS)));
        }
        world
    }

    /// What becomes of it when policies change, and at times pods and routes too. What is remembered of flows and fragments stays,
    /// and so does the overlay device.
    pub fn changed(&self, dice: &mut Dice) -> Self {
        let Self { generation, slots, configured, .. } = *self;
        let next = Self { flows: BTreeMap::new(), fragments: BTreeMap::new(), slots: slots + 1, ..Self::any(dice) };
        let (services, appears) = self.services.changed(dice);
        if dice.once_in(2) {
            return Self { generation: generation + 1, configured, services, ..next };
        }
        let policies =
            self.pods.keys().map(|pod| (*pod, Policies { ingress: rules(dice), egress: rules(dice) })).collect();
        // As the agent does: what was sent to the address of a Service that was none yet is judged again.
        let generation = generation + u32::from(appears);
        Self { generation, services, slots: next.slots, identities: next.identities, policies, ..self.clone() }
    }

    /// Writes it into the maps, in place of the one before, with the flows and fragments that it was found with.
    ///
    /// # Errors
    /// A map refused.
    pub fn write(&self, maps: &Maps, features: Features, dice: &mut Dice) -> Result<()> {
        clear(&maps.flows)?;
        clear(&maps.fragments)?;
        self.write_state(maps, features)?;
        self.services.write_affinities(maps)?;
        for (key, entry) in &self.flows {
            maps.flows.insert(&key.in_map(), &self.flow(key, entry, dice))?;
        }
        for (id, ports) in &self.fragments {
            let FragmentId { src, dst, id, protocol } = *id;
            let key = FragmentKey { src: src.into(), dst: dst.into(), id_be: id.to_be_bytes(), protocol, pad: 0 };
            let value = Fragment { src_port_be: ports.0.to_be_bytes(), dst_port_be: ports.1.to_be_bytes() };
            maps.fragments.insert(&key, &value)?;
        }
        Ok(())
    }

    /// Writes what the agent writes, and leaves the rest as it is.
    ///
    /// # Errors
    /// A map refused.
    pub fn write_state(&self, maps: &Maps, features: Features) -> Result<()> {
        clear(&maps.rules)?;
        clear(&maps.identities)?;
        clear(&maps.networks)?;
        world::fill(maps, features)?;
        let config = maps.config.get(&0)?.unwrap_or_default();
        let own_decap = if self.own_decap { 0 } else { Features::OWN_DECAP };
        let overlay_ifindex = if self.configured { config.overlay_ifindex } else { 0 };
        let features = Features { bits: features.bits & !own_decap };
        maps.config.insert(&0, &Config { overlay_ifindex, features, generation: self.generation, ..config })?;
        self.services.write(maps)?;
        self.write_ends(maps)?;
        self.write_policies(maps)
    }

    fn write_ends(&self, maps: &Maps) -> Result<()> {
        for (pod, _) in PODS {
            let Some(is_sender) = self.pods.get(&pod) else {
                maps.endpoints.remove(&pod.into())?;
                continue;
            };
            let mut endpoint = maps.endpoints.get(&pod.into())?.unwrap_or_default();
            endpoint.ifindex = if *is_sender { POD_IFINDEX } else { NEIGHBOUR_IFINDEX };
            maps.endpoints.insert(&pod.into(), &endpoint)?;
        }
        if !self.host {
            maps.endpoints.remove(&NODE.into())?;
        }
        if !self.other_node {
            maps.nodes.remove(&OTHER_NODE.into())?;
        }
        if !self.remote_route {
            for (key, route) in maps.routes.entries()? {
                if route.kind == margay_maps::RouteKind::Remote {
                    maps.routes.remove(&key)?;
                }
            }
        }
        Ok(())
    }

    fn write_policies(&self, maps: &Maps) -> Result<()> {
        let rule = Rule { origin: Id { bytes: [9; 8] } };
        for (pod, slot) in PODS {
            let policies = self.policies.get(&pod).cloned().unwrap_or_default();
            let mut ids = [Id::NONE; 2];
            for (direction, allowed) in [policies.ingress, policies.egress].iter().enumerate() {
                let Some(allowed) = allowed else { continue };
                ids[direction] = Id { bytes: [1 + direction as u8, slot as u8, 0, 0, 0, 0, 0, 1] };
                for allow in allowed {
                    maps.rules.insert(&allow.key(ids[direction]), &rule)?;
                }
            }
            let [ingress, egress] = ids;
            maps.enforcement.insert(&slot, &Enforcement { generation: self.slots, ingress, egress })?;
        }
        for (ip, identity) in &self.identities {
            // Pods by their address, everybody else by a prefix.
            if *ip == WORLD || *ip == NODE {
                maps.networks.insert(&margay_maps::PrefixKey::host((*ip).into()), &id_of(*identity))?;
            } else {
                maps.identities.insert(&(*ip).into(), &id_of(*identity))?;
            }
        }
        Ok(())
    }

    /// The slot of a pod that is here; 0 of everybody else.
    fn slot(&self, ip: Ipv4Addr) -> u16 {
        PODS.iter().find(|(pod, _)| *pod == ip && self.pods.contains_key(&ip)).map_or(0, |(_, slot)| *slot as u16)
    }

    fn flow(&self, key: &Key, entry: &Entry, dice: &mut Dice) -> Flow {
        let half = |dice: &mut Dice, closed: bool| Half {
            packets: dice.below(3) as u64,
            way: dice.pick(&[Way::Unknown, Way::Unknown, Way::Host]),
            ifindex: dice.below(10) as u32,
            mac: Mac { bytes: [dice.byte(); 6] },
            node_v4: dice.pick(&[OTHER_NODE, WORLD]).octets(),
            tcp_flags: if closed { 1 } else { 0x12 },
            ..Half::default()
        };
        let mut opener = Opener::of_half(entry.opener);
        if entry.by_host {
            opener.bits |= Opener::BY_HOST;
        } else if self.configured && dice.once_in(2) {
            opener.bits |= Opener::VIA_STACK;
        }
        let mut flow = Flow {
            halves: [half(dice, entry.closed), half(dice, false)],
            verdict: entry.verdict.in_map(),
            opener,
            generation: self.generation,
            slots: [self.slot(key.low.ip), self.slot(key.high.ip)],
            nat_v4: entry.nat.map_or([0; 4], |end| end.ip.octets()),
            nat_port_be: entry.nat.map_or(0, |end| end.port).to_be_bytes(),
            ..Flow::default()
        };
        if entry.verdict == Verdict::Translated {
            let generation = self.services.generation - u32::from(!entry.current);
            return Flow { generation, slots: [0; 2], slot_generations: [0; 2], ..flow };
        }
        // Slot 0 is nobody's: nothing raises its generation.
        flow.slot_generations = flow.slots.map(|slot| if slot == 0 { 0 } else { self.slots });
        if !entry.current {
            match dice.below(3) {
                0 => flow.generation = self.generation - 1,
                1 => flow.slot_generations[dice.below(2)] = self.slots - 1,
                _ => flow.slots[dice.below(2)] = u16::MAX,
            }
        }
        flow
    }
}

fn id_of(identity: u8) -> Id {
    Id { bytes: [identity; 8] }
}

fn rules(dice: &mut Dice) -> Option<Vec<Allow>> {
    let count = dice.pick(&[0, 1, 2, 4]);
    (!dice.once_in(3)).then(|| (0..count).map(|_| Allow::any(dice)).collect())
}

/// Any flow.
fn flow(dice: &mut Dice) -> (Key, Entry) {
    let mut end = || End { ip: dice.pick(&ADDRESSES), port: dice.pick(&PORTS) };
    let (a, b) = (end(), end());
    let (key, _) = Key::of(a, b, dice.pick(&PROTOCOLS));
    let mut entry = entry(dice);
    if services::PROTOCOLS.contains(&key.protocol) && dice.once_in(3) {
        entry.nat = Some(End { ip: dice.pick(&SERVICES), port: 80 });
    }
    (key, entry)
}

/// What a pod has been led to.
fn choice(dice: &mut Dice, services: &Services) -> (Key, Entry) {
    let client = End { ip: dice.pick(&[POD, POD, NEIGHBOUR]), port: dice.pick(&[40_000, 40_000, 53]) };
    let names: Vec<_> = services.by_name.keys().copied().collect();
    let other = (End { ip: dice.pick(&SERVICES), port: 80 }, dice.pick(&services::PROTOCOLS));
    let (name, protocol) = if names.is_empty() || dice.once_in(5) { other } else { dice.pick(&names) };
    let (key, opener) = Key::of(client, name, protocol);
    let backend = services.by_name.get(&(name, protocol)).and_then(|service| service.backends.first().copied());
    let nat = Some(backend.filter(|_| dice.once_in(2)).unwrap_or_else(|| services::backend(dice)));
    (key, Entry { verdict: Verdict::Translated, opener, nat, closed: false, by_host: false, ..entry(dice) })
}

fn entry(dice: &mut Dice) -> Entry {
    Entry {
        verdict: dice.pick(&[
            Verdict::Allowed,
            Verdict::Allowed,
            Verdict::EgressDenied,
            Verdict::IngressDenied,
            Verdict::Unknown,
        ]),
        opener: dice.below(2) as u32,
        closed: dice.once_in(4),
        by_host: dice.once_in(8),
        current: dice.once_in(2),
        nat: None,
    }
}

// === impl Allow ===

impl Allow {
    /// As rules of NetworkPolicies are: ports have a protocol.
    fn any(dice: &mut Dice) -> Self {
        let protocol = [None, Some(6), Some(17), Some(132)][dice.below(4)];
        let bits = if protocol.is_none() { 0 } else { dice.pick(&[0, 4, 12, 16]) };
        let mask = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
        Self { identity: dice.below(4) as u8, protocol, port: dice.pick(&PORTS) & mask, bits }
    }

    /// Whether it lets this through.
    pub fn matches(&self, identity: u8, protocol: u8, port: u16) -> bool {
        let rest = 16 - u32::from(self.bits);
        (self.identity == 0 || self.identity == identity)
            && self.protocol.is_none_or(|own| own == protocol)
            && (self.port ^ port).checked_shr(rest).unwrap_or(0) == 0
    }

    fn key(&self, policy: Id) -> RuleKey {
        let identity = if self.identity == 0 { Id::NONE } else { id_of(self.identity) };
        let ports = RuleKey::ANY_PORT + u32::from(self.bits);
        let prefix_len = if self.protocol.is_some() { ports } else { RuleKey::ANY_PROTOCOL };
        RuleKey {
            prefix_len,
            policy,
            identity,
            protocol: self.protocol.unwrap_or(0),
            pad: 0,
            port_be: self.port.to_be_bytes(),
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// As the map has it.
    pub fn in_map(self) -> FlowVerdict {
        match self {
            Self::Allowed => FlowVerdict::Allowed,
            Self::EgressDenied => FlowVerdict::EgressDenied,
            Self::IngressDenied => FlowVerdict::IngressDenied,
            Self::Unknown => FlowVerdict::Unknown,
            Self::Translated => FlowVerdict::Translated,
        }
    }
}
