//! Services into the maps, so that no packet meets half of a set.
//!
//! In: what is planned. Out: changed maps. Never: a Service that names a set which is not all there.
//!
//! New sets first, then the Services that name them, and last, once nothing names them any more, the old sets.

use std::collections::BTreeMap;

use margay_maps::{Backend, BackendKey, Member, Service, ServiceKey, user::Maps};

use super::{Changes, Pass, doubt, is_change};
use crate::plan::Plan;

/// What the maps are known to hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    services: Option<BTreeMap<ServiceKey, Service>>,
    backends: Option<BTreeMap<BackendKey, Backend>>,
    members: Option<BTreeMap<Member, u32>>,
}

// === impl Known ===

impl Known {
    /// Forgets what is not so, or cannot be read.
    pub(super) fn doubt(&mut self, maps: &Maps) {
        let Self { services, backends, members } = self;
        doubt(&maps.services, services);
        doubt(&maps.backends, backends);
        doubt(&maps.members, members);
    }
}

/// What is still to be removed.
pub(super) struct Stale {
    backends: Option<Changes<BackendKey, Backend>>,
    members: Option<Changes<Member, u32>>,
    /// Whether any Service leads elsewhere than before.
    pub(super) moved: bool,
    /// Whether there is one that was none before: what pods have sent to its address went up the stack, and is to be asked about again.
    pub(super) appeared: bool,
}

// === impl Stale ===

impl Stale {
    /// Nothing is removed.
    fn nothing(moved: bool) -> Self {
        Self { backends: None, members: None, moved, appeared: moved }
    }
}

/// Puts the planned Services in force.
pub(super) fn begin(pass: &mut Pass<'_>, plan: &Plan, maps: &Maps, known: &mut Known) -> Stale {
    if plan.services.problem.is_some() {
        return Stale::nothing(false);
    }
    let wanted = &plan.services;
    let mut backends = pass.changes(&maps.backends, known.backends.take(), &wanted.backends);
    let mut members = pass.changes(&maps.members, known.members.take(), &wanted.members);
    let mut services = pass.changes(&maps.services, known.services.take(), &wanted.services);
    pass.write_beside(&maps.backends, &mut backends);
    pass.write_beside(&maps.members, &mut members);
    if backends.is_none() || members.is_none() {
        // The Services of before go on with their sets.
        return Stale::nothing(false);
    }
    let moved = is_change(&services);
    let is_new = |key| maps.services.get(key).is_ok_and(|known| known.is_none());
    let appeared = services.as_ref().is_none_or(|todo| todo.write.iter().any(|(key, _)| is_new(key)));
    pass.write(&maps.services, &mut services);
    pass.remove(&maps.services, &mut services);
    if services.is_none() {
        return Stale::nothing(moved);
    }
    known.services = services.map(Changes::made);
    Stale { backends, members, moved, appeared }
}

/// Removes the sets that no Service names any more.
pub(super) fn finish(pass: &mut Pass<'_>, maps: &Maps, known: &mut Known, stale: Stale) {
    let Stale { mut backends, mut members, moved: _, appeared: _ } = stale;
    pass.remove(&maps.backends, &mut backends);
    pass.remove(&maps.members, &mut members);
    known.backends = backends.map(Changes::made);
    known.members = members.map(Changes::made);
}
