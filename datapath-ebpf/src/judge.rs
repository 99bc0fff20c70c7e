//! Whether policies let a flow be opened.
//!
//! In: who opens it to whom, with which protocol and port. Out: the verdict, and the generations that it was reached under. Never:
//! a packet, or a verdict about a reply: those belong to the flow that was opened.

use margay_maps::{Addr, EndpointKind, Enforcement, Flow, FlowVerdict, Id, Rule, RuleKey};

use crate::{
    lookup::{Aligned, IDENTITIES, NETWORKS, RULES, RuleData, TrieKey, enforcement},
    tuple::Party,
    words::same,
};

/// A flow that somebody wants to open.
pub struct Opening<'a> {
    /// Who.
    pub from: &'a Party,
    /// To whom.
    pub to: &'a Party,
    /// Protocol number.
    pub protocol: u8,
    /// The destination port, network byte order; zero where there is none.
    pub port_be: [u8; 2],
    /// The node itself opens it: it always reaches its own pods.
    pub by_host: bool,
}

/// Judges, and writes verdict, slots, generations and origins into `flow`. `opener`: which half opens it.
#[inline(always)]
pub fn judge(flow: &mut Flow, opening: &Opening<'_>, opener: u32) {
    let (from_slot, to_slot) = (slot(opening.from), slot(opening.to));
    // Generations before policies: see `Enforcement`.
    let (from, from_generation) = read(from_slot);
    let (to, to_generation) = read(to_slot);
    let by_half =
        |of_opener: u32, of_other: u32| if opener == 0 { [of_opener, of_other] } else { [of_other, of_opener] };
    let [low, high] = by_half(from_slot, to_slot);
    flow.slots = [low as u16, high as u16];
    flow.slot_generations = by_half(from_generation, to_generation);
    flow.origins = [Id::NONE; 2];
    flow.verdict = FlowVerdict::Allowed;
    if same(opening.from.addr.v4(), opening.to.addr.v4()) {
        return;
    }
    if !from.egress.is_none() {
        match allows(from.egress, &opening.to.addr, opening) {
            Some(rule) => flow.origins[0] = rule.origin,
            None => {
                flow.verdict = FlowVerdict::EgressDenied;
                return;
            }
        }
    }
    if !to.ingress.is_none() && !opening.by_host {
        match allows(to.ingress, &opening.from.addr, opening) {
            Some(rule) => flow.origins[1] = rule.origin,
            None => flow.verdict = FlowVerdict::IngressDenied,
        }
    }
}

/// The slot of a pod of this node; 0 for everybody else.
#[inline(always)]
fn slot(party: &Party) -> u32 {
    match party.local() {
        Some(local) if local.kind == EndpointKind::Workload => local.slot,
        _ => 0,
    }
}

/// What is in force, and since which generation.
#[inline(always)]
fn read(slot: u32) -> (Enforcement, u32) {
    let Some(enforcement) = enforcement(slot) else {
        return (Enforcement { generation: 0, ingress: Id::NONE, egress: Id::NONE }, 0);
    };
    // SAFETY: the pointer comes from a reference into the map. Volatile, so that it is read before the rest.
    let generation = unsafe { core::ptr::read_volatile(&raw const enforcement.generation) };
    // SAFETY: as above.
    (unsafe { core::ptr::read_volatile(enforcement) }, generation)
}

/// Whether the policy lets this address through.
#[inline(always)]
fn allows(policy: Id, addr: &Addr, opening: &Opening<'_>) -> Option<Rule> {
    let identity = identity(addr);
    let data = RuleData { policy, identity, protocol: opening.protocol, pad: 0, port_be: opening.port_be };
    if !identity.is_none()
        && let Some(rule) = RULES.get(TrieKey::new(RuleKey::ONE_PORT, data).get())
    {
        return Some(*rule);
    }
    RULES.get(TrieKey::new(RuleKey::ONE_PORT, RuleData { identity: Id::NONE, ..data }).get()).copied()
}

/// The peers of policies that an address matches.
#[inline(always)]
fn identity(addr: &Addr) -> Id {
    // SAFETY: an id is eight bytes that are written at once; between an old and a new one, either is right.
    if let Some(id) = unsafe { IDENTITIES.get(&Aligned(*addr).0) } {
        return *id;
    }
    NETWORKS.get(TrieKey::new(128, *addr).get()).copied().unwrap_or(Id::NONE)
}
