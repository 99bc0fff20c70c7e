//! From a plan to the maps: the difference between what should be and what is, written in an order that never shows
//! the programs a state that is neither the old nor the new.
//!
//! In: a plan and open maps. Out: changed maps, and problems. Never: an interface or a route; those are [`crate::host`].

use std::{collections::BTreeMap, fmt::Display};

use margay_maps::user::{HandleError, MapHandle, Maps, Plain};
use tracing::{debug, info};

use crate::{plan::Plan, problem::Problem};

/// What must change in one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// Entries to write, new or different.
    pub write: Vec<(K, V)>,
    /// Keys to remove.
    pub remove: Vec<K>,
}

/// The difference between a map's content and what it should be.
pub fn diff<K: Ord + Copy, V: PartialEq + Copy>(
    current: impl IntoIterator<Item = (K, V)>,
    wanted: &BTreeMap<K, V>,
) -> Changes<K, V> {
    let current: BTreeMap<K, V> = current.into_iter().collect();
    let write = wanted.iter().filter(|(k, v)| current.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect();
    let remove = current.into_keys().filter(|k| !wanted.contains_key(k)).collect();
    Changes { write, remove }
}

/// Writes the plan into the maps.
///
/// What makes addresses known comes first and in the order in which the programs rely on it (nodes are believed before
/// anything is routed to them), what takes them away last and the other way round.
pub fn apply(plan: &Plan, maps: &Maps) -> Vec<Problem> {
    let mut pass = Pass { problems: Vec::new() };
    let nodes = pass.changes(plan, &maps.nodes, &plan.nodes);
    let endpoints = pass.changes(plan, &maps.endpoints, &plan.endpoints);
    let routes = pass.changes(plan, &maps.routes, &plan.routes);

    pass.write(&maps.nodes, &nodes);
    pass.config(maps, plan);
    pass.write(&maps.endpoints, &endpoints);
    pass.write(&maps.routes, &routes);

    pass.remove(&maps.routes, &routes);
    pass.remove(&maps.endpoints, &endpoints);
    pass.remove(&maps.nodes, &nodes);
    pass.problems
}

/// Collects what went wrong, so that one full map does not keep the others from being written.
struct Pass {
    problems: Vec<Problem>,
}

// === impl Pass ===

impl Pass {
    /// What must change in one map; nothing at all where it could not be read, or where the whole would not fit: then
    /// its last good content stays in force.
    fn changes<K: Plain + Ord, V: Plain + PartialEq>(
        &mut self,
        plan: &Plan,
        map: &MapHandle<K, V>,
        wanted: &BTreeMap<K, V>,
    ) -> Changes<K, V> {
        let nothing = Changes { write: Vec::new(), remove: Vec::new() };
        if plan.overfull.contains(map.spec().name) {
            return nothing;
        }
        match map.entries() {
            Ok(current) => diff(current, wanted),
            Err(e) => {
                self.failed(map.spec().name, &e);
                nothing
            }
        }
    }

    fn write<K: Plain + Display, V: Plain>(&mut self, map: &MapHandle<K, V>, changes: &Changes<K, V>) {
        // In a map that is nearly full the new entries need the place of the old ones.
        let max = map.spec().max_entries as usize;
        let crowded = map.keys().is_ok_and(|keys| keys.len() + changes.write.len() > max);
        if crowded {
            self.remove(map, changes);
        }
        for (key, value) in &changes.write {
            debug!(map = map.spec().name, %key, "writing");
            if let Err(e) = map.insert(key, value) {
                self.failed(map.spec().name, &e);
                return;
            }
        }
        if !changes.write.is_empty() {
            info!(map = map.spec().name, entries = changes.write.len(), "written");
        }
    }

    fn remove<K: Plain + Display, V: Plain>(&mut self, map: &MapHandle<K, V>, changes: &Changes<K, V>) {
        for key in &changes.remove {
            debug!(map = map.spec().name, %key, "removing");
            if let Err(e) = map.remove(key) {
                self.failed(map.spec().name, &e);
                return;
            }
        }
        if !changes.remove.is_empty() {
            info!(map = map.spec().name, entries = changes.remove.len(), "removed");
        }
    }

    fn config(&mut self, maps: &Maps, plan: &Plan) {
        let result = match maps.config.get(&0) {
            Ok(Some(current)) if current == plan.config => return,
            Ok(_) | Err(HandleError::Garbled { .. }) => maps.config.insert(&0, &plan.config),
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => info!(map = "config", "written"),
            Err(e) => self.failed("config", &e),
        }
    }

    fn failed(&mut self, map: &str, error: &HandleError) {
        let remedy = match error {
            HandleError::Full { .. } => "give this node fewer pods, or the cluster fewer blocks",
            HandleError::Garbled { .. } => {
                "find out what else writes to Margay's maps; restart the agent with the pin removed to make it anew"
            }
            _ => "see the agent's log; the next pass tries again",
        };
        self.problems.push(Problem::new(format!("map {map}"), error.to_string(), remedy));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_content_needs_no_change() {
        let wanted = BTreeMap::from([(1, 'a'), (2, 'b')]);
        assert_eq!(diff(wanted.clone(), &wanted), Changes { write: vec![], remove: vec![] });
    }

    #[test]
    fn what_differs_is_written_and_what_is_stale_removed() {
        let wanted = BTreeMap::from([(1, 'a'), (2, 'x'), (4, 'd')]);
        let changes = diff([(1, 'a'), (2, 'b'), (3, 'c')], &wanted);
        assert_eq!(changes, Changes { write: vec![(2, 'x'), (4, 'd')], remove: vec![3] });
    }

    proptest! {
        #[test]
        fn applying_a_difference_gives_what_was_wanted(
            current: BTreeMap<u8, u8>,
            wanted: BTreeMap<u8, u8>,
        ) {
            let Changes { write, remove } = diff(current.clone(), &wanted);
            let mut result = current;
            result.extend(write);
            for key in remove {
                result.remove(&key);
            }
            prop_assert_eq!(result, wanted);
        }
    }
}
