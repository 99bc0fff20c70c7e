//! What is in force while the policies do not fit into the maps: those of before.
//!
//! In: what was wanted, and the last plan. Out: contents of before for the pods of then, isolation for those that have come since and
//! are to be isolated; and where not even the cluster of now fits under the policies of before, their maps as they are. Never:
//! a pod that a policy is about and that is open because there was no room, nor an address that keeps what another had.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_maps::Id;

use super::build::Overfull;
use super::content::{Content, Direction};
use super::identities::Identities;
use super::judge::LongestMatch;
use super::select::Wanted;
use super::universe::Universe;
use super::{Directions, PolicyPlan};
use crate::model::Model;
use crate::object::PodName;
use crate::problem::Problem;

/// What each pod gets in place of what was wanted.
pub(super) fn in_place_of(
    wanted: &BTreeMap<PodName, Wanted>,
    previous: Option<&PolicyPlan>,
) -> BTreeMap<PodName, Wanted> {
    let instead = |(name, wanted): (&PodName, &Wanted)| {
        let content = |id: Id| previous.and_then(|plan| plan.contents.get(&id)).map(Arc::clone);
        let wanted = match previous.and_then(|plan| plan.enforcement.get(name)) {
            Some(had) => Wanted { ingress: content(had.ingress), egress: content(had.egress) },
            None => isolated(wanted),
        };
        (name.clone(), wanted)
    };
    wanted.iter().map(instead).collect()
}

/// Nothing passes where something was to be looked at.
fn isolated(wanted: &Wanted) -> Wanted {
    let deny = |content: &Arc<Content>| Arc::new(Content::new(content.direction, BTreeMap::new()));
    Wanted { ingress: wanted.ingress.as_ref().map(deny), egress: wanted.egress.as_ref().map(deny) }
}

/// The last plan, for the pods that there are. An address that would be somebody else by now is no pod's: the networks that hold it
/// are all that can be said of it, and that allows it no more than what is right.
pub(super) fn hold(model: &Model, wanted: &BTreeMap<PodName, Wanted>, previous: Option<&PolicyPlan>) -> PolicyPlan {
    let mut plan = previous.cloned().unwrap_or_default();
    let universe = Universe::new([].into_iter(), plan.contents.values());
    let now = Identities::new(model, &universe, None);
    let longest = LongestMatch::new(&now.networks);
    let same = |addr, id: &Id| plan.peers.get(id).map_or(&[][..], |peers| peers) == now.after(&longest, addr);
    plan.identities = plan.identities.iter().filter(|(addr, id)| same(**addr, id)).map(|(a, id)| (*a, *id)).collect();
    let had = |name: &PodName| previous.and_then(|plan| plan.enforcement.get(name)).copied();
    let deny = |direction| Arc::new(Content::new(direction, BTreeMap::new()));
    let [no_ingress, no_egress] = [deny(Direction::Ingress), deny(Direction::Egress)];
    let new = |wanted: &Wanted| Directions {
        ingress: wanted.ingress.as_ref().map_or(Id::NONE, |_| no_ingress.id),
        egress: wanted.egress.as_ref().map_or(Id::NONE, |_| no_egress.id),
    };
    plan.enforcement =
        wanted.iter().map(|(name, wanted)| (name.clone(), had(name).unwrap_or_else(|| new(wanted)))).collect();
    for content in [no_ingress, no_egress] {
        plan.contents.entry(content.id).or_insert(content);
    }
    plan.problems.clear();
    plan
}

/// What people are told.
pub(super) fn problem(Overfull { map, max }: Overfull) -> Problem {
    Problem::new(
        format!("map {map}"),
        format!(
            "the policies of this node, with those of before until they are gone, would need more than its {max} entries"
        ),
        "give this node's pods fewer rules, or peers that more addresses share; until then the policies of before stay in \
         force, and pods that have come since and that a policy selects are isolated",
    )
}
