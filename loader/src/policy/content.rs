//! What a policy of one endpoint and direction allows, and the ids that stand for it.
//!
//! In: peers and ports of checked NetworkPolicies. Out: [`Content`]s, and [`Id`]s that are hashes of what they stand for, so that
//! they mean the same in every process and are never used for anything else. Never: a name or an order of NetworkPolicies in an
//! id: endpoints with equal content share one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use margay_maps::{Id, RuleKey};

use super::hash::Hash8;
use super::ports::PortPrefix;
use crate::model::policy::{Namespaces, Peer};
use crate::object::{NamedPort, PolicyName, Protocol};

/// Seen from the endpoint that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

/// The other side as a policy names it. Compared by its id alone.
#[derive(Clone, Debug)]
pub struct Who {
    /// The hash of `peer`; [`Id::NONE`] for anyone.
    pub id: Id,
    /// What it is. `None`: anyone.
    pub peer: Option<Arc<Peer>>,
}

/// Protocol and port as a policy names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Whatever protocol and port.
    Any,
    /// All ports of a protocol.
    Protocol(Protocol),
    /// A range of ports.
    Prefix(Protocol, PortPrefix),
    /// What the destination pod calls so: only of what goes out, since what comes in knows its pod.
    Named(Protocol, String),
}

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The other side.
    pub who: Who,
    /// Protocol and port.
    pub ports: PortMatch,
}

/// Who wrote a rule. The order is that in which one is named where several would do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleOrigin {
    /// The NetworkPolicy.
    pub policy: PolicyName,
    /// Under `ingress` or `egress`.
    pub direction: Direction,
    /// The index of the rule there.
    pub rule: usize,
}

/// All that an endpoint's policies allow in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The hash of the rest, without the origins.
    pub id: Id,
    /// The direction.
    pub direction: Direction,
    /// What is allowed, and the first who allows it. Nothing: everything is denied.
    pub allowed: BTreeMap<Entry, Arc<RuleOrigin>>,
}

/// A peer that an address matches: what an identity consists of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerRef {
    /// The id of the [`Who`].
    pub who: Id,
    /// The port that the pod with this address calls so, where it is for the sake of that port that it matches.
    pub port: Option<NamedPort>,
}

// === impl Direction ===

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

// === impl Who ===

impl Who {
    /// Whoever it is.
    pub const ANYONE: Self = Self { id: Id::NONE, peer: None };

    /// A peer of a NetworkPolicy.
    pub fn of(peer: &Peer) -> Self {
        let mut hash = Hash8::new("peer");
        hash.peer(peer);
        Self { id: hash.id(), peer: Some(Arc::new(peer.clone())) }
    }
}

impl PartialEq for Who {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Who {}

impl PartialOrd for Who {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Who {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl Hash for Who {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pods = |selector: &crate::model::Selector| match selector.is_everything() {
            true => "all pods".to_owned(),
            false => format!("pods with {selector}"),
        };
        match self.peer.as_deref() {
            None => f.write_str("anyone"),
            Some(Peer::Pods { namespaces: Namespaces::One(name), pods: selector }) => {
                write!(f, "{} in namespace {name}", pods(selector))
            }
            Some(Peer::Pods { namespaces: Namespaces::Selected(namespaces), pods: selector }) => {
                match namespaces.is_everything() {
                    true => write!(f, "{} in all namespaces", pods(selector)),
                    false => write!(f, "{} in namespaces with {namespaces}", pods(selector)),
                }
            }
            Some(Peer::Cidr { net, except }) => {
                write!(f, "{net}")?;
                except.iter().enumerate().try_for_each(|(i, inner)| {
                    let word = if i == 0 { " except " } else { ", " };
                    write!(f, "{word}{inner}")
                })
            }
        }
    }
}

// === impl PortMatch ===

impl PortMatch {
    /// Length of the prefix, protocol and port of a rule's key; `None` where it depends on the destination.
    pub(super) fn key(&self) -> Option<(u32, u8, u16)> {
        match self {
            Self::Any => Some((RuleKey::ANY_PROTOCOL, 0, 0)),
            Self::Protocol(protocol) => Some((RuleKey::ANY_PORT, protocol.number(), 0)),
            Self::Prefix(protocol, ports) => {
                Some((RuleKey::ANY_PORT + u32::from(ports.bits), protocol.number(), ports.first))
            }
            Self::Named(..) => None,
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("everything"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::Prefix(protocol, ports) => write!(f, "{protocol} {ports}"),
            Self::Named(protocol, name) => write!(f, "{protocol} {name}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.who, self.ports)
    }
}

// === impl RuleOrigin ===

impl RuleOrigin {
    /// The hash that stands for it in the map `rules`.
    pub fn id(&self) -> Id {
        let mut hash = Hash8::new("origin");
        hash.text(&self.policy.namespace).text(&self.policy.name).text(self.direction.word()).number(self.rule);
        hash.id()
    }
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkPolicy {}, {}[{}]", self.policy, self.direction, self.rule)
    }
}

// === impl Content ===

impl Content {
    /// The content of these rules.
    pub(super) fn new(direction: Direction, allowed: BTreeMap<Entry, Arc<RuleOrigin>>) -> Self {
        let mut hash = Hash8::new(direction.word());
        for Entry { who, ports } in allowed.keys() {
            hash.bytes(&who.id.bytes).ports(ports);
        }
        Self { id: hash.id(), direction, allowed }
    }

    /// Another id for the same, for the time of a change that must tell those who had it before from those who have it after.
    pub(super) fn alias(&self) -> Id {
        let mut hash = Hash8::new("alias");
        hash.bytes(&self.id.bytes);
        hash.id()
    }
}

/// The id of the addresses that match these peers, which must be sorted.
pub(super) fn identity(peers: &[PeerRef]) -> Id {
    if peers.is_empty() {
        return Id::NONE;
    }
    let mut hash = Hash8::new("identity");
    hash.peers(peers);
    hash.id()
}

/// The id of the addresses that, for policies that are about to go, match the `before` peers, and for all others those of `after`.
pub(super) fn moving_identity(change: u32, before: &[PeerRef], after: &[PeerRef]) -> Id {
    let mut hash = Hash8::new("moving");
    hash.bytes(&change.to_be_bytes()).peers(before).peers(after);
    hash.id()
}
