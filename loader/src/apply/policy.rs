//! Policies into the maps, so that no packet meets half of them.
//!
//! In: what is planned, with endpoints that have their slots. Out: changed maps. Never: an endpoint that can be reached
//! before its policies are in force; the caller writes endpoints after [`begin`].
//!
//! The order is the whole point: new rules, then identities, then which policy is in force, then generations, and what is
//! stale last ([`finish`]). A verdict that is remembered under a generation was never reached under older policies.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::{Addr, Enforcement, Id, PrefixKey, Rule, RuleKey, user::Maps};

use super::{Changes, Pass, doubt};
use crate::plan::Plan;

/// What the maps are known to hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    rules: Option<BTreeMap<RuleKey, Rule>>,
    networks: Option<BTreeMap<PrefixKey, Id>>,
    identities: Option<BTreeMap<Addr, Id>>,
    enforcement: BTreeMap<u32, Enforcement>,
}

// === impl Known ===

impl Known {
    /// Whether the last plan was written to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.rules.is_some() && self.networks.is_some() && self.identities.is_some()
    }

    /// Forgets what is not so, or cannot be read.
    pub(super) fn doubt(&mut self, maps: &Maps) {
        let Self { rules, networks, identities, enforcement } = self;
        doubt(&maps.rules, rules);
        doubt(&maps.networks, networks);
        doubt(&maps.identities, identities);
        enforcement.clear();
    }
}

/// What is still to be removed.
pub(super) enum Stale {
    /// Nothing: rules are as they were.
    Nothing,
    /// These rules. `None`: what there is must be read first.
    Rules(Option<Changes<RuleKey, Rule>>),
}

/// Puts the planned policies in force.
pub(super) fn begin(pass: &mut Pass<'_>, plan: &Plan, maps: &Maps, known: &mut Known) -> Stale {
    if let Some(addresses) = plan.moved.as_ref().filter(|_| known.is_complete()) {
        move_addresses(pass, plan, maps, known, addresses);
        return Stale::Nothing;
    }
    let policy = &plan.policy;
    let mut rules = pass.changes(&maps.rules, known.rules.take(), &policy.rules);
    let mut networks = pass.changes(&maps.networks, known.networks.take(), &policy.networks);
    let mut identities = pass.changes(&maps.identities, known.identities.take(), &policy.identities);

    pass.write_beside(&maps.rules, &mut rules);
    // Rules that could not be written whole allow less than they should. Addresses and pods that were judged by the old
    // ones go on being so; a pod that is new has its policies at once, and what they lack is denied.
    let complete = rules.is_some();
    let mut moved = BTreeSet::new();
    if complete {
        pass.write(&maps.networks, &mut networks);
        pass.write(&maps.identities, &mut identities);
        pass.remove(&maps.identities, &mut identities);
        pass.remove(&maps.networks, &mut networks);
        moved.extend(plan.raise.iter().copied());
    }
    enforce(pass, plan, maps, known, &moved, complete);
    known.networks = networks.filter(|_| complete).map(Changes::made);
    known.identities = identities.filter(|_| complete).map(Changes::made);
    Stale::Rules(rules)
}

/// Some addresses become others' peers, and nothing else: their rules are there.
fn move_addresses(pass: &mut Pass<'_>, plan: &Plan, maps: &Maps, known: &mut Known, addresses: &BTreeSet<Addr>) {
    let current = known.identities.take().unwrap_or_default();
    let mut todo = Changes { current, write: Vec::new(), remove: Vec::new() };
    for addr in addresses {
        match plan.policy.identities.get(addr) {
            Some(id) if todo.current.get(addr) != Some(id) => todo.write.push((*addr, *id)),
            None if todo.current.contains_key(addr) => todo.remove.push(*addr),
            _ => {}
        }
    }
    let mut identities = Some(todo);
    pass.write(&maps.identities, &mut identities);
    pass.remove(&maps.identities, &mut identities);
    enforce(pass, plan, maps, known, &plan.raise, true);
    known.identities = identities.map(Changes::made);
}

/// Removes what nothing refers to any more.
pub(super) fn finish(pass: &mut Pass<'_>, maps: &Maps, known: &mut Known, stale: Stale) {
    let Stale::Rules(mut rules) = stale else { return };
    pass.remove(&maps.rules, &mut rules);
    known.rules = rules.map(Changes::made);
}

/// Which policies are in force for each slot, and then the generations. `moved`: slots whose verdicts could be others
/// although their policies are the same.
fn enforce(pass: &mut Pass<'_>, plan: &Plan, maps: &Maps, known: &mut Known, moved: &BTreeSet<u32>, complete: bool) {
    let mut raise = Vec::new();
    for (slot, wanted) in &plan.enforcement {
        let before = match known.enforcement.get(slot) {
            Some(before) => *before,
            None => match maps.enforcement.get(slot) {
                Ok(before) => before.unwrap_or_default(),
                Err(error) => {
                    pass.failed("enforcement", &error);
                    continue;
                }
            },
        };
        let same = (before.ingress, before.egress) == (wanted.ingress, wanted.egress);
        let is_new = !pass.is_in_use(*slot);
        if !complete && !is_new {
            continue;
        }
        let mut now = Enforcement { generation: before.generation, ..*wanted };
        if !same && let Err(error) = maps.enforcement.insert(slot, &now) {
            pass.failed("enforcement", &error);
            known.enforcement.remove(slot);
            continue;
        }
        if !same || is_new || moved.contains(slot) {
            now.generation = before.generation.wrapping_add(1);
            raise.push((*slot, now));
        }
        known.enforcement.insert(*slot, now);
    }
    for (slot, now) in raise {
        if let Err(error) = maps.enforcement.insert(&slot, &now) {
            pass.failed("enforcement", &error);
            known.enforcement.remove(&slot);
        }
    }
    known.enforcement.retain(|slot, _| plan.enforcement.contains_key(slot));
}
