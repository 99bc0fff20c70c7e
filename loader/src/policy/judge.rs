//! The verdict, as the programs reach it.
//!
//! In: the content of the maps, and one direction of one packet. Out: whether it may pass, and by which rule. Never: anything
//! that the programs do not do: whatever is read from the maps by this function is read by them in the same way.
//!
//! The programs judge what a pod sends by its `egress` and the destination, and what comes to it by its `ingress` and the source,
//! and let it pass if both do. Before that, and not here: a pod always reaches itself (source and destination are one
//! address), and a node's own addresses always reach its own pods.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::{Addr, Id, PrefixKey, Rule, RuleKey};

/// The maps that a verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// The map `identities`.
    pub identities: &'a BTreeMap<Addr, Id>,
    /// The map `networks`.
    pub networks: &'a BTreeMap<PrefixKey, Id>,
    /// The map `rules`.
    pub rules: &'a BTreeMap<RuleKey, Rule>,
}

/// Whether it may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No policy is about it.
    Open,
    /// This rule allows it.
    Allowed(RuleKey, Rule),
    /// No rule allows it.
    Denied,
}

// === impl Verdict ===

impl Verdict {
    /// Whether it may pass.
    pub fn passes(self) -> bool {
        self != Self::Denied
    }
}

// === impl Tables ===

impl Tables<'_> {
    /// Who has an address: what `identities` says of it, or else the longest prefix that holds it.
    pub fn identity(&self, addr: Addr) -> Id {
        self.identities.get(&addr).copied().unwrap_or_else(|| LongestMatch::new(self.networks).find(addr))
    }

    /// Whether a `policy` lets through what goes to, or comes from, `addr`. `port` is the destination's; 0 for a protocol without.
    pub fn judge(&self, policy: Id, addr: Addr, protocol: u8, port: u16) -> Verdict {
        if policy.is_none() {
            return Verdict::Open;
        }
        let identity = self.identity(addr);
        let anyone = (!identity.is_none()).then_some(Id::NONE);
        let rule =
            [Some(identity), anyone].into_iter().flatten().find_map(|who| self.rule(policy, who, protocol, port));
        rule.map_or(Verdict::Denied, |(key, rule)| Verdict::Allowed(key, rule))
    }

    /// The rule with the longest prefix.
    fn rule(&self, policy: Id, identity: Id, protocol: u8, port: u16) -> Option<(RuleKey, Rule)> {
        let ports = (RuleKey::ANY_PORT..=RuleKey::ONE_PORT).rev().map(|length| {
            let free = RuleKey::ONE_PORT - length;
            (length, protocol, u16::MAX.checked_shl(free).unwrap_or_default() & port)
        });
        ports.chain([(RuleKey::ANY_PROTOCOL, 0, 0)]).find_map(|(prefix_len, protocol, port)| {
            let key = RuleKey { prefix_len, policy, identity, protocol, pad: 0, port_be: port.to_be_bytes() };
            self.rules.get(&key).map(|rule| (key, *rule))
        })
    }
}

/// How many bits an address has.
const ADDR_BITS: u32 = 128;

/// The value of the longest prefix that holds an address: what the kernel's trie finds.
#[derive(Clone, Debug)]
pub struct LongestMatch<'a> {
    networks: &'a BTreeMap<PrefixKey, Id>,
    /// The lengths that there are, longest first.
    lengths: Vec<u32>,
}

// === impl LongestMatch ===

impl<'a> LongestMatch<'a> {
    /// Of these prefixes.
    pub fn new(networks: &'a BTreeMap<PrefixKey, Id>) -> Self {
        let lengths: BTreeSet<u32> = networks.keys().map(|key| key.prefix_len).collect();
        Self { networks, lengths: lengths.into_iter().rev().collect() }
    }

    /// The value; [`Id::NONE`] where no prefix holds the address.
    pub fn find(&self, addr: Addr) -> Id {
        self.find_within(addr, ADDR_BITS)
    }

    /// As [`find`](Self::find), of prefixes of at most so many bits: what holds all of a prefix.
    pub(super) fn find_within(&self, addr: Addr, bits: u32) -> Id {
        let all = u128::from_be_bytes(addr.bytes);
        let prefix = |prefix_len: u32| {
            let kept = all & u128::MAX.checked_shl(ADDR_BITS - prefix_len).unwrap_or_default();
            PrefixKey { prefix_len, addr: Addr { bytes: kept.to_be_bytes() } }
        };
        let lengths = self.lengths.iter().copied().filter(|length| *length <= bits);
        lengths.filter_map(|length| self.networks.get(&prefix(length))).next().copied().unwrap_or(Id::NONE)
    }
}
