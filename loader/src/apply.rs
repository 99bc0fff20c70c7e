//! From a plan to the maps: the difference between what should be and what is, written in an order that never shows
//! the programs a state that is neither the old nor the new.
//!
//! In: a plan and open maps. Out: changed maps, and problems. Never: an interface or a route; those are [`crate::host`].

use std::{collections::BTreeMap, fmt::Display};

use margay_maps::{
    Addr, Endpoint, Node, PrefixKey, Route,
    user::{HandleError, MapHandle, Maps, Plain},
};
use tracing::{debug, info};

use crate::{datapath::attach::Depth, plan::Plan, problem::Problem};

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

/// What the maps are known to hold, so that a pass need not read them all. The agent alone writes them; that nobody
/// else has, [`Depth::Everything`] finds out.
#[derive(Debug, Default)]
pub struct Known {
    endpoints: Option<BTreeMap<Addr, Endpoint>>,
    routes: Option<BTreeMap<PrefixKey, Route>>,
    nodes: Option<BTreeMap<Addr, Node>>,
}

/// Writes the plan into the maps.
///
/// What makes addresses known comes first and in the order in which the programs rely on it (nodes are believed before
/// anything is routed to them), what takes them away last and the other way round.
pub fn apply(plan: &Plan, maps: &Maps, known: &mut Known, depth: Depth) -> Vec<Problem> {
    if depth == Depth::Everything {
        *known = Known::default();
    }
    let mut pass = Pass { plan, problems: Vec::new() };
    let mut nodes = pass.changes(&maps.nodes, known.nodes.take(), &plan.nodes);
    let mut endpoints = pass.changes(&maps.endpoints, known.endpoints.take(), &plan.endpoints);
    let mut routes = pass.changes(&maps.routes, known.routes.take(), &plan.routes);

    pass.write(&maps.nodes, &mut nodes);
    pass.config(maps, plan);
    pass.write(&maps.endpoints, &mut endpoints);
    pass.write(&maps.routes, &mut routes);

    pass.remove(&maps.routes, &mut routes);
    pass.remove(&maps.endpoints, &mut endpoints);
    pass.remove(&maps.nodes, &mut nodes);

    known.routes = routes.map(|_done| plan.routes.clone());
    known.endpoints = endpoints.map(|_done| plan.endpoints.clone());
    known.nodes = nodes.map(|_done| plan.nodes.clone());
    pass.problems
}

/// Collects what went wrong, so that one full map does not keep the others from being written.
struct Pass<'a> {
    plan: &'a Plan,
    problems: Vec<Problem>,
}

// === impl Pass ===

impl Pass<'_> {
    /// What must change in one map. `None` where it could not be read, or where the whole would not fit: then its last
    /// good content stays in force, and the next pass reads it again.
    fn changes<K: Plain + Ord, V: Plain + PartialEq>(
        &mut self,
        map: &MapHandle<K, V>,
        known: Option<BTreeMap<K, V>>,
        wanted: &BTreeMap<K, V>,
    ) -> Option<Changes<K, V>> {
        if self.plan.overfull.contains(map.spec().name) {
            return None;
        }
        if let Some(known) = known {
            return Some(diff(known, wanted));
        }
        let current = map.entries().map_err(|e| self.failed(map.spec().name, &e)).ok()?;
        Some(diff(current, wanted))
    }

    /// Writes what must be written; `changes` becomes `None` if that fails.
    fn write<K: Plain + Display, V: Plain>(&mut self, map: &MapHandle<K, V>, changes: &mut Option<Changes<K, V>>) {
        let Some(todo) = changes else { return };
        for (key, value) in &todo.write {
            debug!(map = map.spec().name, %key, "writing");
            let mut written = map.insert(key, value);
            if matches!(written, Err(HandleError::Full { .. })) {
                // In a map that is nearly full the new entries need the place of the old ones.
                written =
                    todo.remove.iter().try_for_each(|stale| map.remove(stale)).and_then(|()| map.insert(key, value));
            }
            if let Err(e) = written {
                self.failed(map.spec().name, &e);
                *changes = None;
                return;
            }
        }
        if !todo.write.is_empty() {
            info!(map = map.spec().name, entries = todo.write.len(), "written");
        }
    }

    /// Removes what must go; `changes` becomes `None` if that fails.
    fn remove<K: Plain + Display, V: Plain>(&mut self, map: &MapHandle<K, V>, changes: &mut Option<Changes<K, V>>) {
        let Some(todo) = changes else { return };
        for key in &todo.remove {
            debug!(map = map.spec().name, %key, "removing");
            if let Err(e) = map.remove(key) {
                self.failed(map.spec().name, &e);
                *changes = None;
                return;
            }
        }
        if !todo.remove.is_empty() {
            info!(map = map.spec().name, entries = todo.remove.len(), "removed");
        }
    }

    fn config(&mut self, maps: &Maps, plan: &Plan) {
        let result = match maps.config.get(&0) {
            Ok(Some(current)) if current == plan.config => return,
            Ok(_) => maps.config.insert(&0, &plan.config),
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
