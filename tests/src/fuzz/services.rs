//! Services of a fuzzed world: what the agent writes about them, and choices that pods have made.
//!
//! In: chance. Out: [`Services`], in the maps and for the model. Never: half of a set, which the agent never leaves either.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use margay_maps::{
    Affinity, AffinityKey, Backend, BackendKey, Clock, Config, Id, Member, Service as InMap, ServiceKey, ServiceState,
    user::Maps,
};

use super::{dice::Dice, model::End, mutate::SERVICES};
use crate::golden::{
    policies::clear,
    world::{FACELESS, NEIGHBOUR, OTHER_NODE, POD, REMOTE, WORLD},
};

/// The protocols that Services have: TCP, UDP, SCTP.
pub const PROTOCOLS: [u8; 3] = [6, 17, 132];
/// Who serves.
pub const BACKENDS: [Ipv4Addr; 8] = [POD, POD, NEIGHBOUR, FACELESS, REMOTE, REMOTE, WORLD, OTHER_NODE];
/// And on which port; one of them is the overlay's.
pub const BACKEND_PORTS: [u16; 4] = [8_080, 8_080, 53, 4_789];
/// The ports of Services.
const PORTS: [u16; 3] = [80, 80, 53];

/// A Service's port.
pub type Name = (End, u8);

/// What stands behind it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Without [`ServiceState::Served`] there are no backends.
    pub state: ServiceState,
    /// For how long a client keeps its backend, in seconds; 0: not at all.
    pub affinity_secs: u32,
    /// Who serves.
    pub backends: Vec<End>,
}

/// All of a world's.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// The generation that choices are made under.
    pub generation: u32,
    /// Seconds.
    pub clock: u32,
    /// By address, port and protocol.
    pub by_name: BTreeMap<Name, Service>,
    /// Whom clients were led to before, and when.
    pub affinities: BTreeMap<(Ipv4Addr, Name), (End, u32)>,
}

// === impl Services ===

impl Services {
    /// Any.
    pub fn any(dice: &mut Dice, generation: u32) -> Self {
        let mut services = Self { generation, clock: 1_000, ..Self::default() };
        for ip in SERVICES {
            for protocol in PROTOCOLS {
                if !dice.once_in(4) {
                    let name = (End { ip, port: dice.pick(&PORTS) }, protocol);
                    services.by_name.insert(name, Service::any(dice));
                }
            }
        }
        for name in services.by_name.keys() {
            if dice.once_in(4) {
                let used = services.clock - dice.below(20) as u32;
                services.affinities.insert((dice.pick(&[POD, NEIGHBOUR]), *name), (backend(dice), used));
            }
        }
        services
    }

    /// Others, a little later; whether there is one that was none before.
    pub fn changed(&self, dice: &mut Dice) -> (Self, bool) {
        let clock = self.clock + dice.below(12) as u32;
        if dice.once_in(3) {
            return (Self { clock, ..self.clone() }, false);
        }
        let next = Self { clock, affinities: self.affinities.clone(), ..Self::any(dice, self.generation + 1) };
        let appears = next.by_name.keys().any(|name| !self.by_name.contains_key(name));
        (next, appears)
    }

    /// Whether the end is a Service.
    pub fn has(&self, end: End, protocol: u8) -> bool {
        self.by_name.contains_key(&(end, protocol))
    }

    /// Writes them into the maps, in place of those before.
    ///
    /// # Errors
    /// A map refused.
    pub fn write(&self, maps: &Maps) -> Result<()> {
        clear(&maps.services)?;
        clear(&maps.backends)?;
        clear(&maps.members)?;
        for (number, (name, service)) in self.by_name.iter().enumerate() {
            // A set of its own for each, and others in each generation, as their content is another.
            let [a, b, c, d] = self.generation.to_be_bytes();
            let set = Id { bytes: [1, a, b, c, d, 0, 0, number as u8] };
            for (index, backend) in service.backends.iter().enumerate() {
                let backend = in_map(*backend);
                maps.backends.insert(&BackendKey { set, index: index as u32 }, &backend)?;
                maps.members.insert(&Member { set, backend }, &(index as u32))?;
            }
            let Service { state, affinity_secs, ref backends } = *service;
            let value = InMap { set, state, count: backends.len() as u32, affinity_secs };
            maps.services.insert(&key(*name), &value)?;
        }
        maps.clock.insert(&0, &Clock { seconds: self.clock })?;
        let config = maps.config.get(&0)?.unwrap_or_default();
        Ok(maps.config.insert(&0, &Config { service_generation: self.generation, ..config })?)
    }

    /// Writes what clients are remembered by, in place of what was.
    ///
    /// # Errors
    /// A map refused.
    pub fn write_affinities(&self, maps: &Maps) -> Result<()> {
        clear(&maps.affinity)?;
        for ((client, name), (backend, last_used)) in &self.affinities {
            let key = AffinityKey { client: (*client).into(), service: key(*name) };
            maps.affinity.insert(&key, &Affinity { backend: in_map(*backend), last_used: *last_used })?;
        }
        Ok(())
    }
}

// === impl Service ===

impl Service {
    fn any(dice: &mut Dice) -> Self {
        let state = match dice.below(8) {
            0 => ServiceState::NoEndpoints,
            1 => ServiceState::NoneHere,
            _ => ServiceState::Served,
        };
        let mut backends = Vec::new();
        if state == ServiceState::Served {
            for _ in 0..=dice.below(3) {
                let backend = backend(dice);
                if !backends.contains(&backend) {
                    backends.push(backend);
                }
            }
        }
        Self { state, affinity_secs: dice.pick(&[0, 0, 10]), backends }
    }
}

/// Somebody who may serve.
pub fn backend(dice: &mut Dice) -> End {
    End { ip: dice.pick(&BACKENDS), port: dice.pick(&BACKEND_PORTS) }
}

fn in_map(end: End) -> Backend {
    Backend { addr: end.ip.into(), port_be: end.port.to_be_bytes(), pad: [0; 2] }
}

fn key((end, protocol): Name) -> ServiceKey {
    ServiceKey { addr: end.ip.into(), port_be: end.port.to_be_bytes(), protocol, pad: 0 }
}
