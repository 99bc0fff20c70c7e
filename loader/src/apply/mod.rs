//! From a plan to the maps: the difference between what should be and what is, written in an order that never shows
//! the programs a state that is neither the old nor the new.
//!
//! In: a plan and open maps. Out: changed maps, and problems. Never: an interface or a route; those are [`crate::host`].

mod policy;
mod services;
pub mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use margay_maps::{
    Addr, Config, Endpoint, Node, PrefixKey, Route,
    user::{HandleError, MapHandle, Maps, Plain},
};
use tracing::{debug, info};

use crate::{datapath::attach::Depth, plan::Plan, problem::Problem, sorted::differences};

/// What must change in one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// What it holds.
    current: BTreeMap<K, V>,
    /// Entries to write, new or different.
    pub write: Vec<(K, V)>,
    /// Keys to remove.
    pub remove: Vec<K>,
}

/// The difference between a map's content and what it should be.
pub fn diff<K: Ord + Copy, V: PartialEq + Copy>(current: BTreeMap<K, V>, wanted: &BTreeMap<K, V>) -> Changes<K, V> {
    let (mut write, mut remove) = (Vec::new(), Vec::new());
    for (key, [_, new]) in differences(&current, wanted) {
        match new {
            Some(value) => write.push((*key, *value)),
            None => remove.push(*key),
        }
    }
    Changes { current, write, remove }
}

// === impl Changes ===

impl<K: Ord, V> Changes<K, V> {
    /// What the map holds once they are made.
    fn made(self) -> BTreeMap<K, V> {
        let Self { mut current, write, remove } = self;
        current.extend(write);
        for key in &remove {
            current.remove(key);
        }
        current
    }
}

/// What the maps are known to hold, so that a pass need not read them all. The agent alone writes them; that nobody
/// else has, [`Depth::Everything`] finds out.
#[derive(Debug, Default)]
pub struct Known {
    endpoints: Option<BTreeMap<Addr, Endpoint>>,
    routes: Option<BTreeMap<PrefixKey, Route>>,
    nodes: Option<BTreeMap<Addr, Node>>,
    policy: policy::Known,
    services: services::Known,
}

// === impl Known ===

impl Known {
    /// Whether the policies of the last plan are in the maps, all of them.
    pub fn has_policies(&self) -> bool {
        self.policy.is_complete()
    }

    /// Forgets what is not so, or cannot be read.
    fn doubt(&mut self, maps: &Maps) {
        let Self { endpoints, routes, nodes, policy, services } = self;
        doubt(&maps.endpoints, endpoints);
        doubt(&maps.routes, routes);
        doubt(&maps.nodes, nodes);
        policy.doubt(maps);
        services.doubt(maps);
    }

    /// The endpoints in force; read from the map where they are not known.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn endpoints(&mut self, maps: &Maps) -> Result<&BTreeMap<Addr, Endpoint>, HandleError> {
        if self.endpoints.is_none() {
            self.endpoints = Some(maps.endpoints.entries()?.into_iter().collect());
        }
        Ok(self.endpoints.get_or_insert_default())
    }
}

/// Forgets what a map is known to hold if it does not, or cannot be read.
fn doubt<K: Plain + Ord, V: Plain + PartialEq>(map: &MapHandle<K, V>, known: &mut Option<BTreeMap<K, V>>) {
    known.take_if(|known| !map.holds(known).unwrap_or(false));
}

/// Writes the plan into the maps.
///
/// What makes addresses known comes first and in the order in which the programs rely on it (nodes are believed before
/// anything is routed to them, and a pod's policies are in force before it can be reached), what takes them away last and the
/// other way round.
pub fn apply(plan: &Plan, maps: &Maps, known: &mut Known, depth: Depth) -> Vec<Problem> {
    if depth == Depth::Everything {
        known.doubt(maps);
    }
    let mut pass = Pass { plan, problems: Vec::new(), slots_in_use: BTreeSet::new() };
    match known.endpoints(maps) {
        Ok(endpoints) => pass.slots_in_use = endpoints.values().map(|endpoint| endpoint.slot).collect(),
        Err(e) => pass.failed("endpoints", &e),
    }
    let stale = policy::begin(&mut pass, plan, maps, &mut known.policy);
    let mut nodes = pass.changes(&maps.nodes, known.nodes.take(), &plan.nodes);
    let mut endpoints = pass.changes(&maps.endpoints, known.endpoints.take(), &plan.endpoints);
    let mut routes = pass.changes(&maps.routes, known.routes.take(), &plan.routes);

    let moved = [is_change(&nodes), is_change(&endpoints), is_change(&routes)].contains(&true);
    pass.write(&maps.nodes, &mut nodes);
    pass.write(&maps.endpoints, &mut endpoints);
    pass.write(&maps.routes, &mut routes);
    let old_sets = services::begin(&mut pass, plan, maps, &mut known.services);

    pass.remove(&maps.routes, &mut routes);
    pass.remove(&maps.endpoints, &mut endpoints);
    pass.remove(&maps.nodes, &mut nodes);
    pass.config(maps, plan, Moved { ways: moved || old_sets.appeared, services: old_sets.moved });
    policy::finish(&mut pass, maps, &mut known.policy, stale);
    services::finish(&mut pass, maps, &mut known.services, old_sets);

    known.routes = routes.map(Changes::made);
    known.endpoints = endpoints.map(Changes::made);
    known.nodes = nodes.map(Changes::made);
    pass.problems
}

/// Collects what went wrong, so that one full map does not keep the others from being written.
struct Pass<'a> {
    plan: &'a Plan,
    problems: Vec<Problem>,
    /// Slots of endpoints that could be reached before this pass.
    slots_in_use: BTreeSet<u32>,
}

/// Whether there is anything to do, or nobody knows.
fn is_change<K, V>(changes: &Option<Changes<K, V>>) -> bool {
    changes.as_ref().is_none_or(|todo| !todo.write.is_empty() || !todo.remove.is_empty())
}

// === impl Pass ===

impl Pass<'_> {
    fn is_in_use(&self, slot: u32) -> bool {
        self.slots_in_use.contains(&slot)
    }

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
        Some(diff(current.into_iter().collect(), wanted))
    }

    /// Writes what must be written; `changes` becomes `None` if that fails. In a map that is nearly full the new entries get the
    /// place of the old ones.
    fn write<K: Plain + Display, V: Plain>(&mut self, map: &MapHandle<K, V>, changes: &mut Option<Changes<K, V>>) {
        self.write_or(map, changes, |todo, key, value| {
            todo.remove.iter().try_for_each(|stale| map.remove(stale)).and_then(|()| map.insert(key, value))
        });
    }

    /// As [`write`](Self::write), where the old entries must stay until the new ones are all there.
    fn write_beside<K: Plain + Display, V: Plain>(
        &mut self,
        map: &MapHandle<K, V>,
        changes: &mut Option<Changes<K, V>>,
    ) {
        let spec = map.spec();
        let full = || HandleError::Full { name: spec.name, max_entries: spec.max_entries };
        self.write_or(map, changes, |_, _, _| Err(full()));
    }

    fn write_or<K: Plain + Display, V: Plain>(
        &mut self,
        map: &MapHandle<K, V>,
        changes: &mut Option<Changes<K, V>>,
        when_full: impl Fn(&Changes<K, V>, &K, &V) -> Result<(), HandleError>,
    ) {
        let Some(todo) = changes else { return };
        for (key, value) in &todo.write {
            debug!(map = map.spec().name, %key, "writing");
            let mut written = map.insert(key, value);
            if matches!(written, Err(HandleError::Full { .. })) {
                written = when_full(todo, key, value);
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

    /// Writes the node's own data, and then raises the generations of what has `moved`, or of all that depends on what was
    /// written: not before, or a way that was found among the old would pass for one among the new.
    fn config(&mut self, maps: &Maps, plan: &Plan, moved: Moved) {
        if let Err(e) = write_config(maps, &plan.config, moved) {
            self.failed("config", &e);
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

/// What has changed in the maps that flows remember something of.
#[derive(Clone, Copy)]
struct Moved {
    /// Endpoints, routes or nodes; or what was the host's to lead on is a Service now.
    ways: bool,
    /// Services.
    services: bool,
}

fn write_config(maps: &Maps, wanted: &Config, moved: Moved) -> Result<(), HandleError> {
    let current = maps.config.get(&0)?.unwrap_or_default();
    let Config { generation, service_generation, .. } = current;
    let wanted = Config { generation, service_generation, ..*wanted };
    let is_other = current != wanted;
    if is_other {
        maps.config.insert(&0, &wanted)?;
        info!(map = "config", "written");
    }
    let raised = Config {
        generation: generation.wrapping_add(u32::from(moved.ways || is_other)),
        service_generation: service_generation.wrapping_add(u32::from(moved.services)),
        ..wanted
    };
    if raised != wanted {
        maps.config.insert(&0, &raised)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_content_needs_no_change() {
        let wanted = BTreeMap::from([(1, 'a'), (2, 'b')]);
        assert_eq!(diff(wanted.clone(), &wanted), Changes { current: wanted, write: vec![], remove: vec![] });
    }

    #[test]
    fn what_differs_is_written_and_what_is_stale_removed() {
        let wanted = BTreeMap::from([(1, 'a'), (2, 'x'), (4, 'd')]);
        let current = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let changes = diff(current.clone(), &wanted);
        assert_eq!(changes, Changes { current, write: vec![(2, 'x'), (4, 'd')], remove: vec![3] });
    }

    proptest! {
        #[test]
        fn applying_a_difference_gives_what_was_wanted(
            current: BTreeMap<u8, u8>,
            wanted: BTreeMap<u8, u8>,
        ) {
            prop_assert_eq!(diff(current, &wanted).made(), wanted);
        }
    }
}
