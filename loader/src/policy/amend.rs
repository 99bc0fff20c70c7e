//! A plan brought up to date where nothing but pods of other nodes has changed: without looking at all pods of the cluster again.
//!
//! In: a settled plan that is in the maps, the model as it is now, and the pods that have changed since. Out: addresses with other
//! identities, and pods that are to be judged again for it; or nothing, where an identity comes or goes, or a pod of this node is
//! among them. Never: a plan other than [`compile`](super::compile) would make.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::{Addr, Id};

use super::PolicyPlan;
use super::generations;
use super::identities::Identities;
use super::universe::Universe;
use crate::model::{Model, Pod};
use crate::object::PodName;

/// What has changed in a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Addresses whose entry in the map `identities` is another.
    pub addresses: BTreeSet<Addr>,
    /// Pods of this node whose flows are to be judged again.
    pub raised: BTreeSet<PodName>,
}

/// Takes the changes in. `pods`: what changed ones were before. `None`: nothing was done.
pub fn amend(plan: &mut PolicyPlan, model: &Model, node: &str, pods: &BTreeMap<PodName, Option<Pod>>) -> Option<Moves> {
    let now = |name: &PodName| model.pods.get(name);
    let is_here = |name: &PodName, before: &Option<Pod>| before.iter().chain(now(name)).any(|pod| pod.node == node);
    if !plan.settled || !plan.problems.is_empty() || pods.iter().any(|(name, before)| is_here(name, before)) {
        return None;
    }
    let universe = Universe::new([].into_iter(), plan.contents.values());
    let present = pods.keys().filter_map(|name| Some((name, now(name)?)));
    let found = Identities::of_pods(model, &universe, present);
    if found.peers.keys().any(|id| !plan.peers.contains_key(id)) {
        return None;
    }
    let before = pods.values().flatten().flat_map(|pod| &pod.addresses);
    let after = pods.keys().filter_map(now).flat_map(|pod| &pod.addresses);
    let concerned: BTreeSet<Addr> = before.chain(after).map(|ip| Addr::from(*ip)).collect();
    let changes: BTreeMap<Addr, [Option<Id>; 2]> = concerned
        .into_iter()
        .map(|addr| (addr, [plan.identities.get(&addr).copied(), found.addresses.get(&addr).copied()]))
        .filter(|(_, [before, after])| before != after)
        .collect();
    if is_last_of_some(plan, &changes) {
        return None;
    }
    let raised = generations::raised_by(plan, changes.iter().map(|(addr, ids)| (*addr, *ids)));
    for (addr, [_, after]) in &changes {
        match after {
            Some(id) => drop(plan.identities.insert(*addr, *id)),
            None => drop(plan.identities.remove(addr)),
        }
    }
    Some(Moves { addresses: changes.into_keys().collect(), raised })
}

/// Whether an identity would be nobody's: then its rules are to go.
fn is_last_of_some(plan: &PolicyPlan, changes: &BTreeMap<Addr, [Option<Id>; 2]>) -> bool {
    let mut left: BTreeSet<Id> = changes.values().filter_map(|[before, _]| *before).collect();
    for id in changes.values().filter_map(|[_, after]| *after).chain(plan.networks.values().copied()) {
        left.remove(&id);
    }
    for (addr, id) in &plan.identities {
        if left.is_empty() {
            return false;
        }
        if !changes.contains_key(addr) {
            left.remove(id);
        }
    }
    !left.is_empty()
}
