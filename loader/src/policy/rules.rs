//! The content of the map `rules`.
//!
//! In: contents, and what each identity stands for. Out: for each policy and identity what is allowed. Never: more rules than the
//! map can hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_maps::{Id, Rule, RuleKey};

use super::content::{Content, PeerRef, PortMatch, RuleOrigin};
use super::hash::Map;
use super::identities::Identities;
use super::ports::PortPrefix;

/// Rules, and who wrote them.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub rules: BTreeMap<RuleKey, Rule>,
    pub origins: BTreeMap<Id, Arc<RuleOrigin>>,
}

/// Contents by the ids that they have in the maps.
pub(super) type Contents = BTreeMap<Id, Arc<Content>>;

/// What a policy allows a peer.
struct Use<'a> {
    policy: Id,
    ports: &'a PortMatch,
    origin: &'a Arc<RuleOrigin>,
}

/// By the ids of peers, the policies that name them.
type Uses<'a> = Map<Id, Vec<Use<'a>>>;

/// The rules of the policies that are about to go, of those that stay or come, and of all identities. `None` if these are more
/// than `max`.
pub(super) fn rules(identities: &Identities, going: &Contents, staying: &Contents, max: usize) -> Option<Rules> {
    let (going, staying) = (uses(going), uses(staying));
    let anyone = PeerRef { who: Id::NONE, port: None };
    let mut found = Found::new();
    add(&mut found, Id::NONE, &anyone, &going);
    add(&mut found, Id::NONE, &anyone, &staying);
    for (identity, peers) in &identities.peers {
        for (peers, uses) in [(&peers.before, &going), (&peers.after, &staying)] {
            for peer in peers.iter() {
                add(&mut found, *identity, peer, uses);
                // Not with each: most are found once.
                if found.len() > 2 * max {
                    settle(&mut found);
                    if found.len() > max {
                        return None;
                    }
                }
            }
        }
    }
    settle(&mut found);
    (found.len() <= max).then(|| finish(found))
}

/// Rules with who wrote them.
type Found<'a> = Vec<(RuleKey, &'a Arc<RuleOrigin>)>;

fn add<'a>(found: &mut Found<'a>, identity: Id, peer: &'a PeerRef, uses: &'a Uses<'a>) {
    let named = peer.port.as_ref().map(|port| (port.protocol, &*port.name));
    for Use { policy, ports, origin } in uses.get(&peer.who).into_iter().flatten() {
        let of_name = match ports {
            PortMatch::Named(protocol, name) => Some((*protocol, name.as_str())),
            _ => None,
        };
        if of_name != named {
            continue;
        }
        let (prefix_len, protocol, port) = key(ports, peer);
        let key = RuleKey { prefix_len, policy: *policy, identity, protocol, pad: 0, port_be: port.to_be_bytes() };
        found.push((key, origin));
    }
}

/// Each rule once, in order, with the first who wrote it.
fn settle(found: &mut Found<'_>) {
    found.sort_unstable();
    found.dedup_by_key(|(key, _)| *key);
}

fn finish(found: Found<'_>) -> Rules {
    let mut ids: Map<*const RuleOrigin, Id> = Map::default();
    let mut origins = BTreeMap::new();
    let rules = found.into_iter().map(|(key, origin)| {
        let id = *ids.entry(Arc::as_ptr(origin)).or_insert_with(|| {
            let id = origin.id();
            origins.entry(id).or_insert_with(|| Arc::clone(origin));
            id
        });
        (key, Rule { origin: id })
    });
    let rules = rules.collect();
    Rules { rules, origins }
}

fn uses(contents: &Contents) -> Uses<'_> {
    let mut uses = Uses::default();
    for (policy, content) in contents {
        for (entry, origin) in &content.allowed {
            let of_peer = uses.entry(entry.who.id).or_default();
            of_peer.push(Use { policy: *policy, ports: &entry.ports, origin });
        }
    }
    uses
}

/// Length of the prefix, protocol and port. A name is the port that this peer has for it.
fn key(ports: &PortMatch, peer: &PeerRef) -> (u32, u8, u16) {
    let called_so = || peer.port.as_ref().map(|port| PortMatch::Prefix(port.protocol, PortPrefix::one(port.number)));
    ports.key().or_else(|| called_so()?.key()).unwrap_or((RuleKey::ONE_PORT, 0, 0))
}
