//! From what each pod's policies allow to the content of the maps, in such a way that the change from the last content to this one
//! is never half made for anybody.
//!
//! In: contents for each pod, the model, the last plan. Out: the next plan, or that it does not fit. Never: an id that means
//! something else than it meant in the last plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_maps::Id;

use super::content::Content;
use super::hash::Map;
use super::identities::{Change, Identities};
use super::rules::{self, Contents};
use super::select::Wanted;
use super::universe::Universe;
use super::{Directions, Limits, PolicyPlan};
use crate::model::Model;
use crate::object::PodName;
use crate::sorted::side_by_side;

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overfull {
    /// The map.
    pub map: &'static str,
    /// How much it can hold.
    pub max: usize,
}

/// The ids that contents have in the maps, by their own ids.
type Names = Map<Id, Id>;

pub(super) fn build(
    model: &Model,
    wanted: &BTreeMap<PodName, Wanted>,
    previous: Option<&PolicyPlan>,
    limits: &Limits,
) -> Result<PolicyPlan, Overfull> {
    let contents: BTreeMap<Id, &Arc<Content>> = wanted
        .values()
        .flat_map(|wanted| wanted.ingress.iter().chain(&wanted.egress))
        .map(|content| (content.id, content))
        .collect();
    let own = |content: &Content| content.id;
    let as_before = |content: &Content| match previous {
        Some(plan) if plan.contents.contains_key(&content.alias()) => content.alias(),
        _ => content.id,
    };
    let name_all =
        |name: &dyn Fn(&Content) -> Id| contents.values().map(|content| (content.id, name(content))).collect::<Names>();
    let mut names = name_all(&as_before);
    let mut left = left(previous, wanted, &names);
    if left.is_empty() {
        // Nothing else to do: back to the names that every process would give.
        names = name_all(&own);
        left = self::left(previous, wanted, &names);
    }

    let number = previous.map_or(0, |plan| plan.change) + u32::from(!left.is_empty());
    let change = previous.filter(|_| !left.is_empty()).map(|previous| Change { previous, number });
    let before = change.iter().flat_map(|change| change.previous.contents.values());
    let universe = Universe::new(before, contents.values().copied());
    let identities = Identities::new(model, &universe, change);
    if identities.moving {
        // Those that some pods leave and others keep are to say two things at once: those who keep them get them anew.
        for content in contents.values() {
            let other = if names[&content.id] == content.id { content.alias() } else { content.id };
            if left.contains(&names[&content.id]) {
                names.insert(content.id, other);
            }
        }
    }

    let staying: Contents = contents.values().map(|content| (names[&content.id], Arc::clone(content))).collect();
    let going: Contents = previous.map_or_else(Contents::new, |plan| {
        let gone = left.iter().filter(|id| !staying.contains_key(id));
        gone.filter_map(|id| Some((*id, Arc::clone(plan.contents.get(id)?)))).collect()
    });
    // What goes is removed last, so there must be room for both.
    check("networks", previous.map(|plan| &plan.networks), &identities.networks, limits.networks)?;
    check("identities", previous.map(|plan| &plan.identities), &identities.addresses, limits.identities)?;
    let rules = rules::rules(&identities, &going, &staying, limits.rules);
    let rules = rules.ok_or(Overfull { map: "rules", max: limits.rules })?;
    check("rules", previous.map(|plan| &plan.rules), &rules.rules, limits.rules)?;
    Ok(PolicyPlan {
        enforcement: wanted.iter().map(|(name, wanted)| (name.clone(), directions(wanted, &names))).collect(),
        rules: rules.rules,
        origins: rules.origins,
        settled: left.is_empty(),
        contents: staying,
        peers: identities.peers.into_iter().map(|(id, peers)| (id, peers.after)).collect(),
        identities: identities.addresses,
        networks: identities.networks,
        problems: Vec::new(),
        change: number,
    })
}

fn check<K: Ord, V>(
    map: &'static str,
    old: Option<&BTreeMap<K, V>>,
    new: &BTreeMap<K, V>,
    max: usize,
) -> Result<(), Overfull> {
    // Where both would fit beside each other, what they have in common does not matter.
    let Some(old) = old.filter(|old| old.len() + new.len() > max) else {
        return if new.len() > max { Err(Overfull { map, max }) } else { Ok(()) };
    };
    let gone = side_by_side(old, new).filter(|(_, [_, now])| now.is_none()).count();
    if new.len() + gone > max { Err(Overfull { map, max }) } else { Ok(()) }
}

fn directions(wanted: &Wanted, names: &Names) -> Directions {
    let id = |content: &Option<Arc<Content>>| content.as_ref().map_or(Id::NONE, |content| names[&content.id]);
    Directions { ingress: id(&wanted.ingress), egress: id(&wanted.egress) }
}

/// The policies that a pod has and will not have any more.
fn left(previous: Option<&PolicyPlan>, wanted: &BTreeMap<PodName, Wanted>, names: &Names) -> BTreeSet<Id> {
    let mut left = BTreeSet::new();
    for (name, before) in previous.iter().flat_map(|plan| &plan.enforcement) {
        let Some(now) = wanted.get(name).map(|wanted| directions(wanted, names)) else { continue };
        let changes = [(before.ingress, now.ingress), (before.egress, now.egress)];
        left.extend(changes.into_iter().filter(|(old, new)| !old.is_none() && old != new).map(|(old, _)| old));
    }
    left
}
