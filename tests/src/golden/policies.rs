//! Policies for the golden world, written into the maps as the agent would write them.
//!
//! In: what [`POD`](super::world::POD) and [`NEIGHBOUR`](super::world::NEIGHBOUR) allow. Out: `enforcement`, `identities`, `networks` and
//! `rules`, with generations raised. Never: the planner; what is written here a person can check.

use std::net::Ipv4Addr;

use anyhow::Result;
use margay_maps::{
    Enforcement, Id, PrefixKey, Rule, RuleKey,
    user::{MapHandle, Maps, Plain},
};

use super::world::{NEIGHBOUR_SLOT, POD_SLOT, REMOTE, WORLD};

/// What one rule lets through.
#[derive(Clone, Copy, Debug)]
pub struct Allow {
    /// From or to whom.
    pub peer: Peer,
    /// The protocol's number; `None`: every one.
    pub protocol: Option<u8>,
    /// The destination port; `None`: every one.
    pub port: Option<u16>,
}

/// The other side of a rule.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// Everybody.
    Anyone,
    /// [`REMOTE`], which is in `identities`, as pods are.
    Remote,
    /// The range that [`WORLD`] is in, which is in `networks`, as ipBlocks are.
    World,
}

/// The policies of one pod. `None`: not isolated in this direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policies {
    /// What may come in.
    pub ingress: Option<&'static [Allow]>,
    /// What may go out.
    pub egress: Option<&'static [Allow]>,
}

const INGRESS: Id = Id { bytes: [1; 8] };
const EGRESS: Id = Id { bytes: [2; 8] };
const REMOTES: Id = Id { bytes: [3; 8] };
const WORLDS: Id = Id { bytes: [4; 8] };
/// What stands in every rule: somebody wrote it.
const RULE: Rule = Rule { origin: Id { bytes: [5; 8] } };

// === impl Policies ===

impl Policies {
    /// Nothing in, nothing out.
    pub const DENY_ALL: Self = Self { ingress: Some(&[]), egress: Some(&[]) };

    /// Puts them in force for [`POD`](super::world::POD), and those of `neighbour` for [`NEIGHBOUR`](super::world::NEIGHBOUR), whose rules
    /// nobody needs.
    ///
    /// # Errors
    /// A map refused.
    pub fn put_in_force(&self, neighbour: &Self, maps: &Maps) -> Result<()> {
        clear(&maps.rules)?;
        maps.identities.insert(&REMOTE.into(), &REMOTES)?;
        maps.networks.insert(&world_range(), &WORLDS)?;
        for (policy, rules) in [(INGRESS, self.ingress), (EGRESS, self.egress)] {
            for rule in rules.unwrap_or_default() {
                maps.rules.insert(&rule.key(policy), &RULE)?;
            }
        }
        enforce(maps, POD_SLOT, self)?;
        enforce(maps, NEIGHBOUR_SLOT, neighbour)
    }
}

fn enforce(maps: &Maps, slot: u32, policies: &Policies) -> Result<()> {
    let before = maps.enforcement.get(&slot)?.unwrap_or_default();
    let id = |rules: Option<_>, id| if rules.is_some() { id } else { Id::NONE };
    let now = Enforcement {
        generation: before.generation.wrapping_add(1),
        ingress: id(policies.ingress, INGRESS),
        egress: id(policies.egress, EGRESS),
    };
    Ok(maps.enforcement.insert(&slot, &now)?)
}

/// 203.0.113.0/24.
fn world_range() -> PrefixKey {
    let [a, b, c, _] = WORLD.octets();
    PrefixKey { prefix_len: 96 + 24, addr: Ipv4Addr::new(a, b, c, 0).into() }
}

// === impl Allow ===

impl Allow {
    fn key(&self, policy: Id) -> RuleKey {
        let identity = match self.peer {
            Peer::Anyone => Id::NONE,
            Peer::Remote => REMOTES,
            Peer::World => WORLDS,
        };
        let prefix_len = match (self.protocol, self.port) {
            (None, _) => RuleKey::ANY_PROTOCOL,
            (Some(_), None) => RuleKey::ANY_PORT,
            (Some(_), Some(_)) => RuleKey::ONE_PORT,
        };
        let (protocol, port) = (self.protocol.unwrap_or_default(), self.port.unwrap_or_default());
        RuleKey { prefix_len, policy, identity, protocol, pad: 0, port_be: port.to_be_bytes() }
    }
}

/// Takes everything out.
///
/// # Errors
/// A map refused.
pub fn clear<K: Plain, V: Plain>(map: &MapHandle<K, V>) -> Result<()> {
    map.keys()?.iter().try_for_each(|key| Ok(map.remove(key)?))
}
