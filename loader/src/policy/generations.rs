//! Which endpoints' flows must be judged again.
//!
//! In: the plan that was in force, and the one that is. Out: pods whose generation is to be raised. Never: fewer than those about
//! whom a verdict could be another than it was; a few more do no harm but a look-up for each of their flows.

use std::collections::BTreeSet;

use margay_maps::{Addr, Id, PrefixKey, RuleKey};

use super::PolicyPlan;
use super::hash::{Map, Set};
use super::judge::LongestMatch;
use crate::object::PodName;
use crate::sorted::{differences, side_by_side};

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
    let said = by_identity(plan, moves.iter().flatten().copied().collect());
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
    let moves = moves(old, new);
    let (stay, moved): (Set<_>, Set<_>) = moves.into_iter().partition(|(before, now)| before == now);
    // What is said of anyone is said of those without identity as of all others.
    let concerned = |id: &Id| id.is_none() || stay.contains(&(*id, *id));
    let other = differences(&old.rules, &new.rules).filter(|(_, both)| both.contains(&None)).map(|(key, _)| key);
    let mut changed: BTreeSet<Id> = other.filter(|key| concerned(&key.identity)).map(|key| key.policy).collect();
    let (said_before, said_now) = (
        by_identity(old, moved.iter().map(|(before, _)| *before).collect()),
        by_identity(new, moved.iter().map(|(_, now)| *now).collect()),
    );
    let nothing = BTreeSet::new();
    for (before, now) in moved {
        let (before, now) = (said_before.get(&before).unwrap_or(&nothing), said_now.get(&now).unwrap_or(&nothing));
        changed.extend(before.symmetric_difference(now).map(|(policy, ..)| *policy));
    }
    changed
}

/// What is said of each of some identities.
fn by_identity(plan: &PolicyPlan, mut wanted: Set<Id>) -> Map<Id, BTreeSet<Said>> {
    wanted.remove(&Id::NONE);
    let mut by: Map<Id, BTreeSet<Said>> = Map::default();
    if wanted.is_empty() {
        return by;
    }
    for key in plan.rules.keys().filter(|key| wanted.contains(&key.identity)) {
        by.entry(key.identity).or_default().insert(what_it_says(key));
    }
    by
}

fn what_it_says(key: &RuleKey) -> Said {
    let RuleKey { prefix_len, policy, identity: _, protocol, pad: _, port_be } = *key;
    (policy, prefix_len, protocol, port_be)
}

/// The identities that some address had and has. Every address is that of a pod that stands out, or lies in the longest prefix
/// that holds it, before as now, and the prefixes of both times tell all these apart.
fn moves(old: &PolicyPlan, new: &PolicyPlan) -> Set<(Id, Id)> {
    let (longest_before, longest_now) = (LongestMatch::new(&old.networks), LongestMatch::new(&new.networks));
    let of_addresses = side_by_side(&old.identities, &new.identities).map(|(addr, [before, now])| {
        let before = before.copied().unwrap_or_else(|| longest_before.find(*addr));
        (before, now.copied().unwrap_or_else(|| longest_now.find(*addr)))
    });
    let of_prefixes = side_by_side(&old.networks, &new.networks).map(|(PrefixKey { prefix_len, addr }, _)| {
        (longest_before.find_within(*addr, *prefix_len), longest_now.find_within(*addr, *prefix_len))
    });
    of_addresses.chain(of_prefixes).collect()
}
