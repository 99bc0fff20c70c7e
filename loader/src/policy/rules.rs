//! The content of the map `rules`.
//!
//! In: contents, and what each identity stands for. Out: for each policy and identity what is allowed. Never: more rules than the
//! map can hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use margay_maps::{Id, Rule, RuleKey};

use super::content::{Content, PeerRef, PortMatch, RuleOrigin};
use super::identities::Identities;
use super::ports::PortPrefix;
use crate::object::Protocol;

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

/// A peer, and the name of its port where that is what it is about.
type PeerKey<'a> = (Id, Option<(Protocol, &'a str)>);

/// By peers, the policies that name them.
type Uses<'a> = HashMap<PeerKey<'a>, Vec<Use<'a>>>;

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
                if found.len() > max {
                    return None;
                }
            }
        }
    }
    (found.len() <= max).then(|| finish(found))
}

/// Rules, each with the first who wrote it.
type Found<'a> = BTreeMap<RuleKey, &'a Arc<RuleOrigin>>;

fn add<'a>(found: &mut Found<'a>, identity: Id, peer: &'a PeerRef, uses: &'a Uses<'a>) {
    let named = peer.port.as_ref().map(|port| (port.protocol, &*port.name));
    for Use { policy, ports, origin } in uses.get(&(peer.who, named)).into_iter().flatten() {
        let (prefix_len, protocol, port) = key(ports, peer);
        let key = RuleKey { prefix_len, policy: *policy, identity, protocol, pad: 0, port_be: port.to_be_bytes() };
        let first = found.entry(key).or_insert(origin);
        if *origin < *first {
            *first = origin;
        }
    }
}

fn finish(found: Found<'_>) -> Rules {
    let mut ids: HashMap<*const RuleOrigin, Id> = HashMap::new();
    let mut rules = Rules::default();
    for (key, origin) in found {
        let id = *ids.entry(Arc::as_ptr(origin)).or_insert_with(|| origin.id());
        rules.origins.entry(id).or_insert_with(|| Arc::clone(origin));
        rules.rules.insert(key, Rule { origin: id });
    }
    rules
}

fn uses(contents: &Contents) -> Uses<'_> {
    let mut uses = Uses::new();
    for (policy, content) in contents {
        for (entry, origin) in &content.allowed {
            let named = match &entry.ports {
                PortMatch::Named(protocol, name) => Some((*protocol, name.as_str())),
                _ => None,
            };
            let of_peer = uses.entry((entry.who.id, named)).or_default();
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
