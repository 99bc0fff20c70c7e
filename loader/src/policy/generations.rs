//! Which endpoints' flows must be judged again.
//!
//! In: the plan that was in force, and the one that is. Out: pods whose generation is to be raised. Never: fewer than those about
//! whom a verdict could be another than it was; a few more do no harm but a look-up for each of their flows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use margay_maps::{Addr, Id, PrefixKey, RuleKey};

use super::PolicyPlan;
use super::judge::LongestMatch;
use crate::object::PodName;

/// The pods whose own policies have other ids, that are new, or of whose policy the rules are others for an address than they were.
pub fn raised(old: Option<&PolicyPlan>, new: &PolicyPlan) -> BTreeSet<PodName> {
    let Some(old) = old else { return new.enforcement.keys().cloned().collect() };
    let changed = changed_policies(old, new);
    let concerned = |(name, now): &(&PodName, &super::Directions)| {
        let own = old.enforcement.get(name) != Some(now);
        own || changed.contains(&now.ingress) || changed.contains(&now.egress)
    };
    new.enforcement.iter().filter(concerned).map(|(name, _)| name.clone()).collect()
}

/// The pods about whom a verdict could be another once some addresses have other entries in the map `identities`: each with the one
/// that it had and the one that it gets.
pub fn raised_by(plan: &PolicyPlan, changes: impl Iterator<Item = (Addr, [Option<Id>; 2])>) -> BTreeSet<PodName> {
    let longest = LongestMatch::new(&plan.networks);
    let moves: BTreeSet<[Id; 2]> =
        changes.map(|(addr, ids)| ids.map(|id| id.unwrap_or_else(|| longest.find(addr)))).collect();
    if moves.is_empty() {
        return BTreeSet::new();
    }
    let wanted: BTreeSet<Id> = moves.iter().flatten().copied().filter(|id| !id.is_none()).collect();
    let mut said: HashMap<Id, BTreeSet<Said>> = HashMap::new();
    for key in plan.rules.keys().filter(|key| wanted.contains(&key.identity)) {
        said.entry(key.identity).or_default().insert(what_it_says(key));
    }
    let nothing = BTreeSet::new();
    let of = |id: &Id| said.get(id).unwrap_or(&nothing);
    let changed: BTreeSet<Id> = moves
        .iter()
        .flat_map(|[before, now]| of(before).symmetric_difference(of(now)).map(|(policy, ..)| *policy))
        .collect();
    let concerned =
        plan.enforcement.iter().filter(|(_, now)| changed.contains(&now.ingress) || changed.contains(&now.egress));
    concerned.map(|(name, _)| name.clone()).collect()
}

/// Whatever a rule says beside policy and identity.
type Said = (Id, u32, u8, [u8; 2]);

/// Policies that let some address do other things than before.
fn changed_policies(old: &PolicyPlan, new: &PolicyPlan) -> BTreeSet<Id> {
    let (said_before, said_now) = (by_identity(old), by_identity(new));
    let said = |by: &'_ HashMap<Id, Vec<Said>>, id: Id| by.get(&id).cloned().unwrap_or_default();
    let mut changed = BTreeSet::new();
    let mut compare = |before: &[Said], now: &[Said]| {
        let (before, now): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
        changed.extend(before.symmetric_difference(&now).map(|(policy, ..)| *policy));
    };
    compare(&said(&said_before, Id::NONE), &said(&said_now, Id::NONE));
    // What is said of anyone is said of those without identity as of all others.
    let own = |by: &HashMap<Id, Vec<Said>>, id: Id| if id.is_none() { Vec::new() } else { said(by, id) };
    for (before, now) in moves(old, new) {
        compare(&own(&said_before, before), &own(&said_now, now));
    }
    changed
}

fn by_identity(plan: &PolicyPlan) -> HashMap<Id, Vec<Said>> {
    let mut by: HashMap<Id, Vec<Said>> = HashMap::new();
    for key in plan.rules.keys() {
        by.entry(key.identity).or_default().push(what_it_says(key));
    }
    by
}

fn what_it_says(key: &RuleKey) -> Said {
    let RuleKey { prefix_len, policy, identity: _, protocol, pad: _, port_be } = *key;
    (policy, prefix_len, protocol, port_be)
}

/// The identities that some address had and has. Every address is that of a pod that stands out, or lies in the longest prefix
/// that holds it, before as now, and the prefixes of both times tell all these apart.
fn moves(old: &PolicyPlan, new: &PolicyPlan) -> BTreeSet<(Id, Id)> {
    let (longest_before, longest_now) = (LongestMatch::new(&old.networks), LongestMatch::new(&new.networks));
    let id = |own: &BTreeMap<Addr, Id>, longest: &LongestMatch<'_>, addr: Addr| {
        own.get(&addr).copied().unwrap_or_else(|| longest.find(addr))
    };
    let addresses: BTreeSet<&Addr> = old.identities.keys().chain(new.identities.keys()).collect();
    let of_addresses = addresses
        .into_iter()
        .map(|addr| (id(&old.identities, &longest_before, *addr), id(&new.identities, &longest_now, *addr)));
    let prefixes: BTreeSet<&PrefixKey> = old.networks.keys().chain(new.networks.keys()).collect();
    let of_prefixes = prefixes.into_iter().map(|PrefixKey { prefix_len, addr }| {
        (longest_before.find_within(*addr, *prefix_len), longest_now.find_within(*addr, *prefix_len))
    });
    of_addresses.chain(of_prefixes).collect()
}
